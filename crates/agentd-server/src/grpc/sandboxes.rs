//! The operations on named sandboxes: each is an intent with one of the capabilities `sandbox.*`.

use super::{
    call::ExecuteCall,
    execute::serve,
    failure::{self, failure as failed, invalid},
    translate,
};
use crate::{
    request::{ExecuteRequest, NetworkRequest, WorkspaceRequest},
    sandboxes::{self, FilePart, NewSandbox, SandboxCapabilities, SandboxChanges, SandboxObject, SandboxPage},
    service::Service,
};
use agentd_proto::v1;
use data_encoding::BASE64;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

/// The most sandboxes of a page.
const PAGE: u32 = 100;

/// Carries out an operation, and returns its result.
async fn operate<T: DeserializeOwned>(
    service: &Service,
    call: &ExecuteCall,
    request: ExecuteRequest,
    key: Option<String>,
) -> Result<T, Status> {
    let key = translate::key(key)?;
    let served = serve(service, call, request, key).await?;
    sandboxes::result(served).map_err(|object| failure::refused(&object))
}

/// Carries out an operation that returns a sandbox.
pub(super) async fn changed<M>(
    service: &Service,
    request: Request<M>,
    operation: &str,
    parameters: impl FnOnce(M) -> (Value, Option<String>),
) -> Result<Response<v1::SandboxResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let (parameters, key) = parameters(request.into_inner());
    let object: SandboxObject = operate(service, &call, sandboxes::request(operation, parameters), key).await?;
    Ok(Response::new(v1::SandboxResponse { sandbox: Some(named(object)) }))
}

/// Creates a sandbox.
pub(super) async fn create(
    service: &Service,
    request: Request<v1::CreateSandboxRequest>,
) -> Result<Response<v1::SandboxResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let message = request.into_inner();
    let new = NewSandbox {
        sandbox: message.sandbox,
        idle_ttl_s: message.idle_ttl_s,
        ttl_s: message.ttl_s,
        workspace: message.workspace.map(|v1::Workspace { path, read_only }| WorkspaceRequest { path, read_only }),
        profile: translate::profile(message.profile)?,
        limits: message.limits.map(translate::limits).unwrap_or_default(),
        network: message.network.map(|v1::Network { allow }| NetworkRequest { allow }),
    };
    let object: SandboxObject = operate(service, &call, new.request(), message.idempotency_key).await?;
    Ok(Response::new(v1::SandboxResponse { sandbox: Some(named(object)) }))
}

/// Returns a page of the sandboxes.
pub(super) async fn list(
    service: &Service,
    request: Request<v1::ListSandboxesRequest>,
) -> Result<Response<v1::ListSandboxesResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let v1::ListSandboxesRequest { page_size, page_token } = request.into_inner();
    let limit = Some(page_size.min(PAGE)).filter(|size| *size > 0);
    let after = Some(page_token).filter(|token| !token.is_empty());
    let request = sandboxes::request("list", json!({ "limit": limit, "after": after }));
    let SandboxPage { sandboxes, next } = operate(service, &call, request, None).await?;
    let sandboxes = sandboxes.into_iter().map(named).collect();
    Ok(Response::new(v1::ListSandboxesResponse { sandboxes, next_page_token: next.unwrap_or_default() }))
}

/// Returns what was proven about the boundary of a sandbox.
pub(super) async fn capabilities(
    service: &Service,
    request: Request<v1::GetSandboxCapabilitiesRequest>,
) -> Result<Response<v1::GetSandboxCapabilitiesResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let request = sandboxes::request("inspect", json!({ "sandbox": request.into_inner().sandbox }));
    let SandboxCapabilities { backend, proven, claims, persistent, snapshots, .. } =
        operate(service, &call, request, None).await?;
    let claims = claims.into_iter().collect();
    Ok(Response::new(v1::GetSandboxCapabilitiesResponse { backend, proven, claims, persistent, snapshots }))
}

/// Lists changed files.
pub(super) async fn diff(
    service: &Service,
    request: Request<v1::DiffSandboxRequest>,
) -> Result<Response<v1::DiffSandboxResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let v1::DiffSandboxRequest { sandbox, since, limit } = request.into_inner();
    let request = sandboxes::request("diff", json!({ "sandbox": sandbox, "since": since, "limit": limit }));
    let SandboxChanges { changes, total } = operate(service, &call, request, None).await?;
    let changes = changes.into_iter().map(|change| v1::SandboxChange { kind: kind(&change.kind).into(), path: change.path });
    Ok(Response::new(v1::DiffSandboxResponse { changes: changes.collect(), total }))
}

/// Removes a sandbox.
pub(super) async fn terminate(
    service: &Service,
    request: Request<v1::TerminateSandboxRequest>,
) -> Result<Response<v1::TerminateSandboxResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let v1::TerminateSandboxRequest { sandbox, idempotency_key } = request.into_inner();
    let request = sandboxes::request("terminate", json!({ "sandbox": sandbox }));
    let _: sandboxes::TerminatedSandbox = operate(service, &call, request, idempotency_key).await?;
    Ok(Response::new(v1::TerminateSandboxResponse {}))
}

/// Reads a part of a file.
pub(super) async fn read(
    service: &Service,
    request: Request<v1::ReadFileRequest>,
) -> Result<Response<v1::ReadFileResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let v1::ReadFileRequest { sandbox, path, offset, length } = request.into_inner();
    let parameters = json!({ "sandbox": sandbox, "path": path, "offset": offset, "length": length });
    let part: FilePart = operate(service, &call, sandboxes::request("read", parameters), None).await?;
    let content = match part.encoding.as_str() {
        "base64" => BASE64.decode(part.content.as_bytes()).map_err(|error| failed("failed", &error.to_string()))?,
        _ => part.content.into_bytes(),
    };
    Ok(Response::new(v1::ReadFileResponse { size: part.size, content: content.into() }))
}

/// Writes a file.
pub(super) async fn write(
    service: &Service,
    request: Request<v1::WriteFileRequest>,
) -> Result<Response<v1::WriteFileResponse>, Status> {
    let call = ExecuteCall::of(&request)?;
    let v1::WriteFileRequest { sandbox, path, content } = request.into_inner();
    if content.len() > MAX_CONTENT {
        return Err(invalid("content", "content: longer than 11 MiB — write a smaller file".to_owned()));
    }
    let parameters = json!({ "sandbox": sandbox, "path": path, "base64": BASE64.encode(&content) });
    let _: sandboxes::WrittenFile = operate(service, &call, sandboxes::request("write", parameters), None).await?;
    Ok(Response::new(v1::WriteFileResponse {}))
}

/// The longest content of a file that is written. In base64, it is within the longest parameters.
const MAX_CONTENT: usize = 11 << 20;

fn kind(word: &str) -> v1::ChangeKind {
    match word {
        "added" => v1::ChangeKind::Added,
        "changed" => v1::ChangeKind::Changed,
        "removed" => v1::ChangeKind::Removed,
        _ => v1::ChangeKind::Unspecified,
    }
}

fn named(object: SandboxObject) -> v1::NamedSandbox {
    let state = match object.state.as_str() {
        "stopped" => v1::SandboxState::Stopped,
        "live" => v1::SandboxState::Live,
        "paused" => v1::SandboxState::Paused,
        "changing" => v1::SandboxState::Changing,
        _ => v1::SandboxState::Unspecified,
    };
    let profile = match object.profile.as_str() {
        "strict" => v1::Profile::Strict,
        "default" => v1::Profile::Default,
        "permissive" => v1::Profile::Permissive,
        _ => v1::Profile::Unspecified,
    };
    let snapshots = object.snapshots.into_iter().map(|one| v1::Snapshot { snapshot: one.snapshot, created: one.created });
    v1::NamedSandbox {
        sandbox: object.sandbox,
        owner: object.owner,
        state: state.into(),
        commands: object.commands,
        created: object.created,
        used: object.used,
        idle_ttl_s: object.idle_ttl_s,
        ttl_s: object.ttl_s,
        parent: object.parent,
        image: object.image,
        backend: object.backend,
        profile: profile.into(),
        network: object.network,
        limits: object.limits.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect(),
        workspace: object.workspace.map(|WorkspaceRequest { path, read_only }| v1::Workspace { path, read_only }),
        snapshots: snapshots.collect(),
    }
}
