//! A server of `/mcp` with a real engine. The test stands for the parts in front of and behind the transport: the authentication
//! of callers, who name themselves in the header `x-caller`, and the execution of admitted intents, which runs commands without a
//! sandbox. The suites of `agentd` test sandboxes.

use agentd_core::{Captured, EndReason, Outcome, Usage};
use agentd_engine::{
    CapabilityRegistry, EndedIntent, Engine, EngineError, EngineParts, Executed, Execution, LiveQuotas, Operation, RunResult,
    vocabulary,
};
use agentd_policy::{IfMissing, LivePolicies, PolicyPrincipal, PrincipalKind};
use agentd_records::{ContentDigest, Records};
use agentd_server::{Caller, ExecutionCall, Executor, Service, ServiceParts, mcp::http_service};
use agentd_state::{Retention, StateStore};
use axum::{Router, extract::Request, middleware, response::Response};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};
use tempfile::TempDir;

/// Everybody may do everything.
pub const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

/// A server that runs until the value is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub folder: TempDir,
}

/// Runs commands on this host.
struct Unsandboxed;

#[async_trait::async_trait]
impl Executor for Unsandboxed {
    async fn execute(&self, execution: Execution<'_>, call: ExecutionCall) -> Result<(EndedIntent, Vec<String>), EngineError> {
        let Operation::Command(line) = &execution.valid().operation else {
            return Ok((execution.fail("the test runs commands only").await?, Vec::new()));
        };
        let directory =
            execution.valid().intent.workspace.as_ref().map_or_else(std::env::temp_dir, |found| found.path.clone().into());
        let mut command = tokio::process::Command::new(&line.argv[0]);
        command.args(&line.argv[1..]).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let ended = tokio::select! {
            output = command.output() => Some(output.unwrap()),
            () = call.streams.cancel.cancelled() => None,
        };
        let outcome = Outcome {
            reason: if ended.is_some() { EndReason::Exited } else { EndReason::Cancelled },
            exit_code: ended.as_ref().and_then(|output| output.status.code()),
            signal: None,
            usage: Usage::default(),
            stdout: Captured { head: ended.map(|output| output.stdout).unwrap_or_default(), ..Captured::default() },
            stderr: Captured::default(),
        };
        let ran = RunResult::Command(Ok(outcome), [ContentDigest::of(b""); 2]);
        let executed = Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran };
        Ok((execution.finish(executed).await?, Vec::new()))
    }
}

impl Server {
    /// Starts a server with this policy. Every caller may name workspaces below the folder `shared`.
    pub async fn start(policy: &str) -> Self {
        Self::start_for(policy, None).await
    }

    /// Starts a server for a client that sends no header `x-caller`.
    pub async fn start_for(policy: &str, caller: Option<&'static str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("shared")).unwrap();
        let engine = engine(folder.path(), policy).await;
        let workspaces = vec![folder.path().join("shared").canonicalize().unwrap()];
        let service = Service::new(ServiceParts { engine, executor: Box::new(Unsandboxed), workspaces });
        let mcp = http_service(service);
        let router = Router::new()
            .route_service("/mcp", mcp)
            .layer(middleware::from_fn(move |request, next| authenticate(request, caller, next)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, folder }
    }

    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("shared").canonicalize().unwrap()
    }
}

async fn engine(folder: &Path, policy: &str) -> Engine {
    let policies = folder.join("policy/enforced");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("test.cedar"), policy).unwrap();
    for (path, mode) in [("", 0o700), ("policy", 0o700), ("policy/enforced", 0o700), ("policy/enforced/test.cedar", 0o600)] {
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let capabilities = CapabilityRegistry::built_in().unwrap();
    let words = vocabulary(&capabilities, [("container", true)]).unwrap();
    let records = Records::at(&folder.join("records"));
    records.keys().unwrap();
    let parts = EngineParts {
        policies: LivePolicies::open(&folder.join("policy"), words, IfMissing::Fail).unwrap(),
        quotas: LiveQuotas::open(&folder.join("quotas.toml")).unwrap(),
        isolated: ["container".to_owned()].into(),
        state: StateStore::open(&folder.join("state"), Retention::default()).unwrap(),
        operator: "uid:7".try_into().unwrap(),
        capabilities,
        records,
    };
    Engine::start(parts).await.unwrap()
}

/// Makes the caller of a request the one that the header `x-caller` names: `operator`, or an agent. Without the header, the
/// request has the usual caller, if there is one.
async fn authenticate(mut request: Request, usual: Option<&'static str>, next: middleware::Next) -> Response {
    let named = request.headers().get("x-caller").and_then(|name| name.to_str().ok()).or(usual).map(str::to_owned);
    if let Some(name) = named {
        let is_operator = name == "operator";
        let kind = if is_operator { PrincipalKind::User } else { PrincipalKind::Agent };
        let principal = PolicyPrincipal { kind, name, groups: Default::default(), acts_for: None };
        request.extensions_mut().insert(Caller {
            principal,
            transport: "mcp-http",
            address: None,
            is_operator,
            scope: Default::default(),
        });
    }
    next.run(request).await
}
