//! The service `agentd.v1.Agentd`: which function answers which call.

use super::{
    approvals,
    call::caller,
    catalog, execute,
    failure::{failure, invalid},
    sandboxes, stream,
};
use crate::service::Service;
use agentd_proto::v1;
use agentd_state::IntentId;
use serde_json::json;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// The implementation of `agentd.v1.Agentd`.
pub(super) struct AgentdService {
    service: Service,
}

impl AgentdService {
    pub(super) fn new(service: Service) -> Self {
        Self { service }
    }
}

/// Parses the identifier of an intent.
pub(super) fn intent_id(text: &str) -> Result<IntentId, Status> {
    text.parse().map_err(|error| invalid("intent", format!("intent: {error}")))
}

#[async_trait]
impl v1::agentd_server::Agentd for AgentdService {
    type ExecuteStreamStream = stream::Replies;

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Result<Response<v1::ExecuteResponse>, Status> {
        execute::execute(&self.service, request).await
    }

    async fn execute_stream(
        &self,
        request: Request<Streaming<v1::ExecuteStreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        stream::execute(&self.service, request)
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let intent = intent_id(&request.get_ref().intent)?;
        if self.service.cancel(caller(&request)?, intent) {
            return Ok(Response::new(v1::CancelResponse {}));
        }
        let message = format!("the intent {intent} of this principal neither waits nor is executed — it may have ended");
        Err(failure("unknown-intent", &message))
    }

    async fn list_capabilities(
        &self,
        request: Request<v1::ListCapabilitiesRequest>,
    ) -> Result<Response<v1::ListCapabilitiesResponse>, Status> {
        caller(&request)?;
        catalog::list(self.service.capabilities(), request.get_ref()).map(Response::new)
    }

    async fn get_capability(
        &self,
        request: Request<v1::GetCapabilityRequest>,
    ) -> Result<Response<v1::GetCapabilityResponse>, Status> {
        caller(&request)?;
        catalog::get(self.service.capabilities(), &request.get_ref().name).map(Response::new)
    }

    async fn health(&self, request: Request<v1::HealthRequest>) -> Result<Response<v1::HealthResponse>, Status> {
        caller(&request)?;
        let (ready, version) = (!self.service.is_stopping(), env!("CARGO_PKG_VERSION").to_owned());
        Ok(Response::new(v1::HealthResponse { ready, version }))
    }

    async fn list_approvals(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        approvals::list(self.service.engine(), caller(&request)?, request.get_ref()).await.map(Response::new)
    }

    async fn decide_approval(
        &self,
        request: Request<v1::DecideApprovalRequest>,
    ) -> Result<Response<v1::DecideApprovalResponse>, Status> {
        approvals::decide(self.service.engine(), caller(&request)?, request.get_ref()).await.map(Response::new)
    }

    async fn create_sandbox(&self, request: Request<v1::CreateSandboxRequest>) -> Result<Response<v1::SandboxResponse>, Status> {
        sandboxes::create(&self.service, request).await
    }

    async fn list_sandboxes(
        &self,
        request: Request<v1::ListSandboxesRequest>,
    ) -> Result<Response<v1::ListSandboxesResponse>, Status> {
        sandboxes::list(&self.service, request).await
    }

    async fn get_sandbox(&self, request: Request<v1::GetSandboxRequest>) -> Result<Response<v1::SandboxResponse>, Status> {
        sandboxes::changed(&self.service, request, "get", |message| (json!({ "sandbox": message.sandbox }), None)).await
    }

    async fn suspend_sandbox(
        &self,
        request: Request<v1::SuspendSandboxRequest>,
    ) -> Result<Response<v1::SandboxResponse>, Status> {
        sandboxes::changed(&self.service, request, "suspend", |message| (json!({ "sandbox": message.sandbox }), None)).await
    }

    async fn resume_sandbox(&self, request: Request<v1::ResumeSandboxRequest>) -> Result<Response<v1::SandboxResponse>, Status> {
        sandboxes::changed(&self.service, request, "resume", |message| (json!({ "sandbox": message.sandbox }), None)).await
    }

    async fn get_sandbox_capabilities(
        &self,
        request: Request<v1::GetSandboxCapabilitiesRequest>,
    ) -> Result<Response<v1::GetSandboxCapabilitiesResponse>, Status> {
        sandboxes::capabilities(&self.service, request).await
    }

    async fn snapshot_sandbox(
        &self,
        request: Request<v1::SnapshotSandboxRequest>,
    ) -> Result<Response<v1::SandboxResponse>, Status> {
        let parameters = |message: v1::SnapshotSandboxRequest| {
            (json!({ "sandbox": message.sandbox, "snapshot": message.snapshot }), message.idempotency_key)
        };
        sandboxes::changed(&self.service, request, "snapshot", parameters).await
    }

    async fn restore_sandbox(
        &self,
        request: Request<v1::RestoreSandboxRequest>,
    ) -> Result<Response<v1::SandboxResponse>, Status> {
        let parameters =
            |message: v1::RestoreSandboxRequest| (json!({ "sandbox": message.sandbox, "snapshot": message.snapshot }), None);
        sandboxes::changed(&self.service, request, "restore", parameters).await
    }

    async fn fork_sandbox(&self, request: Request<v1::ForkSandboxRequest>) -> Result<Response<v1::SandboxResponse>, Status> {
        let parameters = |message: v1::ForkSandboxRequest| {
            let v1::ForkSandboxRequest { sandbox, snapshot, new_sandbox, idempotency_key } = message;
            (json!({ "sandbox": sandbox, "snapshot": snapshot, "new": new_sandbox }), idempotency_key)
        };
        sandboxes::changed(&self.service, request, "fork", parameters).await
    }

    async fn diff_sandbox(&self, request: Request<v1::DiffSandboxRequest>) -> Result<Response<v1::DiffSandboxResponse>, Status> {
        sandboxes::diff(&self.service, request).await
    }

    async fn terminate_sandbox(
        &self,
        request: Request<v1::TerminateSandboxRequest>,
    ) -> Result<Response<v1::TerminateSandboxResponse>, Status> {
        sandboxes::terminate(&self.service, request).await
    }

    async fn read_file(&self, request: Request<v1::ReadFileRequest>) -> Result<Response<v1::ReadFileResponse>, Status> {
        sandboxes::read(&self.service, request).await
    }

    async fn write_file(&self, request: Request<v1::WriteFileRequest>) -> Result<Response<v1::WriteFileResponse>, Status> {
        sandboxes::write(&self.service, request).await
    }
}
