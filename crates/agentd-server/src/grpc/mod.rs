//! gRPC: the service `agentd.v1.Agentd`, standard health, and reflection (`docs/grpc.md`).
//!
//! 1. `call` reads caller, deadline and trace of a call from its metadata.
//! 2. `translate` turns a message into the request that all transports share.
//! 3. `execute` and `stream` have the request executed, and cancel the intent when the client has gone or the deadline has
//!    passed.
//! 4. `outcome` and `failure` turn the end into a message or an error with details.
//!
//! `sandboxes` translates operations on named sandboxes into intents. `catalog` and `approvals` answer the other calls.

mod agentd;
mod approvals;
mod call;
mod catalog;
mod execute;
mod failure;
mod health;
mod outcome;
mod page;
mod sandboxes;
mod stream;
mod translate;

use crate::{auth::AuthError, service::Service};
use agentd::AgentdService;
use agentd_proto::{FILE_DESCRIPTOR_SET, limits::MAX_REQUEST, v1::agentd_server::AgentdServer};
use tonic::service::Routes;

/// The reason why the services cannot be described for reflection. This is a bug.
#[derive(Debug, thiserror::Error)]
#[error("gRPC: describe the services for reflection: {0} — report this as a bug of agentd")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// Returns the response to a call whose caller is not authenticated.
pub(crate) fn unauthenticated(error: AuthError) -> http::Response<axum::body::Body> {
    failure::of_auth(error).into_http()
}

/// Returns the routes of all gRPC services, for a router whose middleware puts the [`Caller`](crate::Caller) into the extensions
/// of each request. The health service follows `service` by a task, which ends when the service is stopping.
///
/// # Errors
/// [`ReflectionError`].
pub async fn routes(service: Service) -> Result<axum::Router, ReflectionError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let health = health::follow(&service).await;
    let agentd = AgentdServer::new(AgentdService::new(service)).max_decoding_message_size(MAX_REQUEST);
    let routes = Routes::new(agentd).add_service(health).add_service(v1).add_service(v1alpha);
    // The router of REST has a fallback already.
    Ok(routes.into_axum_router().reset_fallback())
}
