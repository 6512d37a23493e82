//! `agentd serve`: executes the requests of many clients, by REST, gRPC and MCP on a Unix socket and on TCP addresses.

use super::{
    args::ServeArgs,
    data,
    failure::{self, Failure},
    service,
    telemetry::DaemonTelemetry,
    writer,
};
use agentd_engine::Engine;
use agentd_isolation::egress;
use agentd_log::LogFailure as _;
use agentd_server::{
    Service,
    auth::{Authenticator, JwtIssuer, JwtSettings, KeyStores},
    http::{HttpParts, router},
    listen::{ConnectionLimits, Endpoint, TcpEndpoint, TlsFiles, TlsServer, UnixSocket, serve as serve_connections},
};
use agentd_state::{Retention, StateStore};
use std::{path::PathBuf, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The time for which cancelled intents may take to end, in addition to the grace period of their commands.
const CANCELLED: Duration = Duration::from_secs(30);

/// The time for which clients may take to read their last responses.
const RESPONSES: Duration = Duration::from_secs(5);

/// The interval at which spans are exported.
const EXPORT: Duration = Duration::from_secs(5);

/// Serves until a signal asks agentd to stop. Returns the exit code.
///
/// The first `SIGTERM` or `SIGINT` ends the acceptance of requests; intents that are executed get the time of `--drain`. A second
/// one cancels them at once. `SIGHUP` loads policies, quotas, the certificate and the keys of the issuer again.
pub(super) async fn serve(args: ServeArgs, telemetry: DaemonTelemetry) -> Result<u8, Failure> {
    let mut signals = StopSignals::new()?;
    let mut reload = signal(SignalKind::hangup())?;
    let path = match &args.socket {
        Some(path) => std::path::absolute(path)?,
        None => data::folder()?.join("serve/agentd.sock"),
    };
    let socket = UnixSocket::bind(&path)?;
    let (tls, issuer) = (tls(&args)?, issuer(&args)?);
    let mut endpoints = vec![(path.display().to_string(), Endpoint::Unix(socket))];
    for address in &args.listen {
        let endpoint = TcpEndpoint::bind(*address, tls.clone()).await?;
        endpoints.push((endpoint.url(), Endpoint::Tcp(endpoint)));
    }
    egress::raise_descriptor_limit()?;
    let service = service::service(workspaces(&args.workspace)?).await?;
    let keys = StateStore::open(&data::folder()?.join("state"), Retention::default())?;
    let stores = KeyStores { keys, uses: service.engine().state().clone() };
    let authenticator = Authenticator::new(stores, issuer.clone())
        .map_err(|errno| format!("find the groups of this user: getgroups: {errno}"))?;
    let parts = HttpParts { service: service.clone(), authenticator, metrics: telemetry.metrics.clone() };
    let router = router(parts).await?;
    let stop = CancellationToken::new();
    let limits = ConnectionLimits { connections: args.max_connections.get() };
    let mut connections = JoinSet::new();
    let exports = telemetry.export_every(EXPORT);
    for (name, endpoint) in endpoints {
        connections.spawn(serve_connections(endpoint, router.clone(), limits, stop.clone()));
        writer::message(format_args!("serving on {name}"));
    }
    loop {
        tokio::select! {
            () = signals.next() => break,
            Some(()) = reload.recv() => {
                reload_configuration(service.engine()).await;
                if let Some(tls) = &tls {
                    report("certificate", tls.reload().map_err(|error| error.to_string()));
                }
                if let Some(issuer) = &issuer {
                    report("JWT keys", issuer.reload().map_err(|error| error.to_string()));
                }
            }
        }
    }
    writer::message(format_args!("stopping: waiting up to {} s for intents to end", args.drain.as_secs_f64()));
    end(&service, &mut signals, args.drain, (stop, connections)).await;
    exports.finish().await;
    Ok(0)
}

/// Returns TLS, if the arguments name a certificate.
fn tls(args: &ServeArgs) -> Result<Option<TlsServer>, Failure> {
    let (Some(certificate), Some(key)) = (args.tls_cert.clone(), args.tls_key.clone()) else { return Ok(None) };
    let client_authorities = args.tls_client_ca.clone();
    Ok(Some(TlsServer::load(TlsFiles { certificate, key, client_authorities })?))
}

/// Returns the issuer of tokens, if the arguments name one.
fn issuer(args: &ServeArgs) -> Result<Option<JwtIssuer>, Failure> {
    match (args.jwt_issuer.clone(), args.jwt_audience.clone(), args.jwt_keys.clone()) {
        (Some(issuer), Some(audience), Some(keys)) => Ok(Some(JwtIssuer::load(JwtSettings { issuer, audience, keys })?)),
        _ => Ok(None),
    }
}

/// Returns the directories without links, below which callers other than the user may name workspaces.
fn workspaces(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let resolved = |path: &PathBuf| path.canonicalize().map_err(|error| failure::of_file("workspace", path, &error).into());
    named.iter().map(resolved).collect()
}

/// The signals that ask the daemon to stop.
struct StopSignals([Signal; 2]);

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

async fn reload_configuration(engine: &Engine) {
    match engine.reload().await {
        Ok(reloaded) => {
            let policies = reloaded.policies.map(drop).map_err(|error| error.to_string());
            let quotas = reloaded.quotas.map(drop).map_err(|error| error.to_string());
            report("policies", policies);
            report("quotas", quotas);
        }
        Err(error) => writer::message(format_args!("reload: {error}")),
    }
}

/// Prints whether a part of the configuration was loaded.
fn report(what: &str, loaded: Result<(), String>) {
    match loaded {
        Ok(()) => writer::message(format_args!("{what} loaded")),
        Err(error) => writer::message(format_args!("{what} not loaded, the earlier state stays in force: {error}")),
    }
}

/// Lets intents end, and cancels them after `drain` or at the next signal. Connections then get a time for the last responses.
async fn end(service: &Service, signals: &mut StopSignals, drain: Duration, connections: (CancellationToken, JoinSet<()>)) {
    let (stop, mut connections) = connections;
    stop.cancel();
    let is_drained = tokio::select! {
        () = service.drain() => true,
        () = signals.next() => false,
        () = tokio::time::sleep(drain) => false,
    };
    if !is_drained {
        writer::message(format_args!("cancelling the intents that are still executed"));
        service.cancel_all();
        if tokio::time::timeout(CANCELLED, service.drain()).await.is_err() {
            writer::message(format_args!("some intents have not ended: the next start records them as interrupted"));
        }
    }
    tokio::select! {
        () = all_ended(&mut connections) => {}
        () = signals.next() => {}
        () = tokio::time::sleep(RESPONSES) => writer::message(format_args!("some clients have not read their last response")),
    }
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        ended.or_warn("wait for connections", "of the daemon");
    }
}
