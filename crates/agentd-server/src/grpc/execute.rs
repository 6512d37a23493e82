//! `Execute`: one request, one outcome.

use super::{call::ExecuteCall, failure, outcome::outcome, translate};
use crate::{
    call::CallStreams,
    request::ExecuteRequest,
    service::{ServedIntent, Service},
};
use agentd_proto::v1;
use agentd_state::IdempotencyKey;
use agentd_telemetry::record_end;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

/// Executes a request. tonic drops the returned future when the client has gone, which cancels the intent.
pub(super) async fn execute(
    service: &Service,
    request: Request<v1::ExecuteRequest>,
) -> Result<Response<v1::ExecuteResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let (request, key) = translate::request(request.into_inner())?;
    let served = serve(service, &call, request, key).await?;
    if served.ended.object["status"] == "refused" {
        return Err(failure::refused(&served.ended.object));
    }
    let mut response = Response::new(v1::ExecuteResponse { outcome: Some(outcome(served)) });
    call.identify(response.metadata_mut());
    Ok(response)
}

/// Executes the intent of a call with one reply. The end of the call, such as its deadline, cancels the intent.
pub(super) async fn serve(
    service: &Service,
    call: &ExecuteCall,
    request: ExecuteRequest,
    key: Option<IdempotencyKey>,
) -> Result<ServedIntent, Status> {
    let cancel = CancellationToken::new();
    let _cancels = cancel.clone().drop_guard();
    let streams = CallStreams { events: None, input: None, cancel };
    let execution = async {
        let served = service.execute(&call.caller, request, key, streams).await;
        served.inspect(|served| record_end(&served.ended.object))
    };
    tokio::select! {
        served = execution.instrument(call.trace.span()) => served.map_err(|error| failure::of_service(&error)),
        overdue = call.overdue() => Err(overdue),
    }
}
