//! The service that the transports of agentd use: this user's engine, and the execution of its intents in this process.

use super::{
    call,
    execution::{ExecutedIntent, ExecutionOptions, LiveCaller, execute},
    failure::Failure,
    stops::StopSource,
};
use agentd_engine::{EndedIntent, EngineError, Execution};
use agentd_server::{CallStreams, ExecutionCall, Executor, Service, ServiceParts};
use std::path::PathBuf;

/// Executes intents with the backends of this program.
struct OwnBackends;

#[async_trait::async_trait]
impl Executor for OwnBackends {
    async fn execute(&self, execution: Execution<'_>, call: ExecutionCall) -> Result<(EndedIntent, Vec<String>), EngineError> {
        let ExecutionCall { streams: CallStreams { events, input, cancel }, backend, reach } = call;
        let options = ExecutionOptions {
            backend: backend.as_deref().filter(|name| !["auto", ""].contains(name)),
            secrets: &[],
            caller: LiveCaller::Remote(events),
            input,
            stops: StopSource::Caller(cancel),
            reach,
        };
        let ExecutedIntent { ended, notices, .. } = execute(execution, options).await?;
        Ok((ended, notices))
    }
}

/// Returns the service of this user. Callers other than this user may name workspaces at or below `workspaces` only.
///
/// # Errors
/// The engine cannot be opened.
pub(super) async fn service(workspaces: Vec<PathBuf>) -> Result<Service, Failure> {
    let engine = call::engine().await?;
    Ok(Service::new(ServiceParts { engine, executor: Box::new(OwnBackends), workspaces }))
}
