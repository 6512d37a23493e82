//! A daemon in a temporary folder that listens on a Unix socket.

use crate::commands::Commands;
use agentd_client::{CallError, Client, ClientError, v1};
use agentd_engine::{CapabilityRegistry, Engine, EngineParts, LiveQuotas, vocabulary};
use agentd_policy::{IfMissing, LivePolicies, PolicyPrincipal, PrincipalKind};
use agentd_records::Records;
use agentd_server::{Caller, Service, ServiceParts, grpc};
use agentd_state::{Retention, StateStore};
use axum::{extract::Request, middleware::Next};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::mpsc};

/// Every principal may do everything; what the user 9 requests waits for an approval.
const POLICY: &str = r#"
@id("all") permit (principal, action, resource);
@id("ask") @approval("ask the team") permit (principal == User::"uid:9", action, resource);
"#;

pub struct Place {
    directory: TempDir,
    pub service: Service,
    /// The commands that have begun.
    pub begun: mpsc::UnboundedReceiver<String>,
    /// The commands that were cancelled.
    pub cancelled: mpsc::UnboundedReceiver<String>,
}

impl Place {
    pub async fn new() -> Self {
        Self::with_quotas("").await
    }

    pub async fn with_quotas(quotas: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        private(directory.path(), "policy/enforced/test.cedar", POLICY);
        private(directory.path(), "quotas.toml", quotas);
        let (begun, begun_commands) = mpsc::unbounded_channel();
        let (cancelled, cancelled_commands) = mpsc::unbounded_channel();
        let executor = Box::new(Commands { begun, cancelled });
        let engine = engine(directory.path()).await;
        let service = Service::new(ServiceParts { engine, executor, workspaces: Vec::new() });
        let place = Self { directory, service, begun: begun_commands, cancelled: cancelled_commands };
        place.listen("socket", Some(caller("uid:7", true))).await;
        place
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Returns a client of the user who runs the daemon.
    pub async fn operator(&self) -> Client {
        Client::connect(self.socket()).await.unwrap()
    }

    /// Returns a client of another user.
    pub async fn user(&self, number: u32) -> Client {
        let name = format!("uid:{number}");
        let socket = self.directory.path().join(&name);
        if !socket.exists() {
            self.listen(&name, Some(caller(&name, false))).await;
        }
        Client::connect(socket).await.unwrap()
    }

    /// Returns a client that is not authenticated.
    pub async fn nobody(&self) -> Client {
        self.listen("nobody", None).await;
        Client::connect(self.directory.path().join("nobody")).await.unwrap()
    }

    /// Serves a socket whose requests have this caller, as the middleware of the daemon puts it into the extensions.
    async fn listen(&self, name: &str, caller: Option<Caller>) {
        let authenticate = move |mut request: Request, next: Next| {
            if let Some(caller) = caller.clone() {
                request.extensions_mut().insert(caller);
            }
            next.run(request)
        };
        let router = grpc::routes(self.service.clone()).await.unwrap().layer(axum::middleware::from_fn(authenticate));
        let listener = UnixListener::bind(self.directory.path().join(name)).unwrap();
        tokio::spawn(accept(listener, router));
    }
}

/// Serves connections with windows as those of the daemon: a stream that nobody reads does not use up those of the connection.
async fn accept(listener: UnixListener, router: axum::Router) {
    let mut server = Builder::new(TokioExecutor::new());
    server.http2().max_concurrent_streams(64).initial_stream_window_size(128 << 10).initial_connection_window_size(8 << 20);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (server, service) = (server.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await });
    }
}

fn caller(name: &str, is_operator: bool) -> Caller {
    let principal = PolicyPrincipal { kind: PrincipalKind::User, name: name.to_owned(), groups: Vec::new(), acts_for: None };
    Caller { principal, transport: "grpc", address: None, is_operator, scope: Default::default() }
}

async fn engine(directory: &Path) -> Engine {
    let capabilities = CapabilityRegistry::built_in().unwrap();
    let words = vocabulary(&capabilities, [("container", true)]).unwrap();
    let records = Records::at(&directory.join("records"));
    records.keys().unwrap();
    let parts = EngineParts {
        policies: LivePolicies::open(&directory.join("policy"), words, IfMissing::UseDefault).unwrap(),
        capabilities,
        isolated: ["container".to_owned()].into(),
        quotas: LiveQuotas::open(&directory.join("quotas.toml")).unwrap(),
        state: StateStore::open(&directory.join("state"), Retention::default()).unwrap(),
        records,
        operator: "uid:7".try_into().unwrap(),
    };
    Engine::start(parts).await.unwrap()
}

/// Writes a file below `root` that nobody else may change.
fn private(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for above in path.ancestors().skip(1).take_while(|above| above.starts_with(root)) {
        fs::set_permissions(above, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

/// Returns a request to run a command.
pub fn shell(command: &str) -> v1::ExecuteRequest {
    agentd_client::request("shell.exec.v1", &json!({ "command": command })).unwrap()
}

/// Returns a request to run a command that reads what the client sends.
pub fn interactive(command: &str) -> v1::ExecuteRequest {
    agentd_client::request("shell.exec.v1", &json!({ "command": command, "stdin_stream": true })).unwrap()
}

/// Returns the error of a call.
pub fn call_error<T: std::fmt::Debug>(result: Result<T, ClientError>) -> CallError {
    match result.unwrap_err() {
        ClientError::Call(error) => *error,
        other => panic!("{other:?}"),
    }
}
