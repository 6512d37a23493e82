//! Measures the gateway to granted hosts relative to plain loopback. The same client connects to the same servers in a sandbox
//! and outside. The client is `bash`; without it, nothing is measured.

use super::{
    abuse,
    figure::{median, ratio, spawn},
    peers::is_installed,
};
use crate::cli::failure::Failure;
use agentd_core::{Command, IsolationBackend, Network, Sandbox, SandboxSpec};
use agentd_isolation::egress;
use rustix::process::{Resource, getrlimit};
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command as Spawn, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The number of bytes of a download.
const BULK: usize = 256 << 20;
/// The number of connections that a client opens one after the other.
const IN_TURN: u32 = 200;
/// The number of connections that a client opens at once.
pub(super) const AT_ONCE: usize = 2000;
/// The maximum number of rounds. One round takes some seconds, because a gateway accepts a bounded number of connections per
/// second.
const ROUNDS: u32 = 5;

/// The clients. Each connects to `$1:$2`.
const DOWNLOAD: &str = "cat </dev/tcp/$1/$2 >/dev/null";
const CONNECT: &str = "for ((i = 0; i < 200; i++)); do exec 3<>/dev/tcp/$1/$2 && read -rN1 <&3 && exec 3>&- || exit; done";
const GATHER: &str = "ulimit -n $(ulimit -Hn); all=()
    for ((i = 0; i < 2000; i++)); do exec {one}<>/dev/tcp/$1/$2 || exit; all+=($one); done
    for one in ${all[@]}; do read -rN1 -u $one || exit; done";
/// Reports that the namespace exists, waits for its network, and then downloads.
const IN_SLIRP: &str = "echo ready; read -r; cat </dev/tcp/$1/$2 >/dev/null";
/// The address of the host's loopback in a namespace of slirp4netns, and the largest MTU that its manual names.
const SLIRP_HOST: &str = "10.0.2.2";
const SLIRP_MTU: &str = "--mtu=65520";

/// The number of descriptors that this process needs for the servers and the gateway, if a client opens all connections at once.
const DESCRIPTORS: u64 = 10_000;
/// The time after which a gateway again accepts the connections of one second at once.
const REST: Duration = Duration::from_secs(1);

/// The result for one backend.
pub(super) struct Granted {
    pub backend: &'static str,
    /// The rate of a download, relative to plain loopback.
    pub bulk: f64,
    /// The rate of a download, relative to slirp4netns, if that is installed and runs here.
    pub bulk_to_slirp: Option<f64>,
    /// The time of a connection that returns one byte, relative to plain loopback.
    pub connect: f64,
    /// The additional time of such a connection.
    pub connect_longer: Duration,
    /// The time of many connections at once, relative to plain loopback. `None` if this process may not open that many.
    pub at_once: Option<f64>,
    /// The 99th percentile of the time of a connection while another sandbox floods its gateway, relative to the time without
    /// that sandbox. `None` for a virtual machine.
    pub beside_flood: Option<f64>,
}

/// The times of a client outside and in a sandbox.
#[derive(Default)]
struct Pair {
    outside: Vec<Duration>,
    inside: Vec<Duration>,
}

impl Pair {
    async fn sample(&mut self, sandbox: &Arc<dyn Sandbox>, script: &str, server: SocketAddr) -> Result<(), Failure> {
        self.outside.push(outside(script, server)?);
        self.inside.push(inside(sandbox, script, server).await?);
        Ok(())
    }

    /// Returns the medians: outside, inside.
    fn medians(&mut self) -> (Duration, Duration) {
        (median(&mut self.outside), median(&mut self.inside))
    }
}

/// Measures the backends that can limit the network.
pub(super) async fn measure(
    backends: &[(&'static str, Arc<dyn IsolationBackend>)],
    rounds: u32,
) -> Result<Vec<Granted>, Failure> {
    let mut all = Vec::new();
    if !is_installed("bash") {
        return Ok(all);
    }
    egress::raise_descriptor_limit()?;
    let servers = Servers { download: serve(send_all)?, connect: serve(send_byte)?, gather: serve_together()? };
    for (name, backend) in backends.iter().filter(|(_, backend)| backend.traits().egress) {
        all.push(measure_one(name, backend, &servers, rounds).await?);
    }
    Ok(all)
}

struct Servers {
    download: SocketAddr,
    connect: SocketAddr,
    gather: SocketAddr,
}

async fn measure_one(
    name: &'static str,
    backend: &Arc<dyn IsolationBackend>,
    servers: &Servers,
    rounds: u32,
) -> Result<Granted, Failure> {
    let grants = [servers.download, servers.connect, servers.gather].map(|server| server.to_string());
    let spec = SandboxSpec { network: Network::Egress(grants.to_vec()), ..SandboxSpec::default() };
    let sandbox = backend.create_sandbox(spec.clone()).await?;
    let log = sandbox.network_log();
    // The channel of a machine carries fewer connections at once.
    let many = !backend.traits().own_kernel && getrlimit(Resource::Nofile).current.is_none_or(|limit| limit >= DESCRIPTORS);
    let (mut bulk, mut connect, mut gather, mut slirp) = (Pair::default(), Pair::default(), Pair::default(), Vec::new());
    for _ in 0..rounds.clamp(1, ROUNDS) {
        bulk.sample(&sandbox, DOWNLOAD, servers.download).await?;
        slirp.extend(through_slirp(servers.download).ok());
        connect.sample(&sandbox, CONNECT, servers.connect).await?;
        if many {
            gather.sample(&sandbox, GATHER, servers.gather).await?;
        }
        // Empties the queue of flows: it is bounded, and has no other reader.
        while log.as_ref().is_some_and(|log| log.next(Duration::ZERO).is_some()) {}
        tokio::time::sleep(REST).await;
    }
    let beside_flood = if backend.traits().own_kernel {
        None
    } else {
        let hostile = backend.create_sandbox(spec).await?;
        let slowdown = abuse::slowdown(&sandbox, &hostile, servers.connect).await;
        hostile.destroy().await?;
        Some(slowdown?)
    };
    sandbox.destroy().await?;
    let ((bulk_outside, bulk_inside), (connect_outside, connect_inside)) = (bulk.medians(), connect.medians());
    let (gather_outside, gather_inside) = gather.medians();
    Ok(Granted {
        backend: name,
        bulk: ratio(bulk_outside, bulk_inside),
        bulk_to_slirp: (!slirp.is_empty()).then(|| ratio(median(&mut slirp), bulk_inside)),
        connect: ratio(connect_inside, connect_outside),
        connect_longer: connect_inside.saturating_sub(connect_outside) / IN_TURN,
        at_once: many.then(|| ratio(gather_inside, gather_outside)),
        beside_flood,
    })
}

pub(super) fn line(script: &str, host: &str, port: u16) -> [String; 6] {
    ["bash", "-c", script, "bash", host, &port.to_string()].map(str::to_owned)
}

/// Returns the command of a client in a sandbox.
pub(super) fn command(line: [String; 6]) -> Command {
    let argv = line.map(Into::into).to_vec();
    Command { argv, env: vec![("PATH".into(), "/usr/bin:/bin".into())], cwd: Some("/".into()), ..Command::default() }
}

fn outside(script: &str, server: SocketAddr) -> Result<Duration, Failure> {
    let started = Instant::now();
    spawn(&line(script, &server.ip().to_string(), server.port()))?;
    Ok(started.elapsed())
}

async fn inside(sandbox: &Arc<dyn Sandbox>, script: &str, server: SocketAddr) -> Result<Duration, Failure> {
    let command = command(line(script, &server.ip().to_string(), server.port()));
    let started = Instant::now();
    let outcome = sandbox.exec(command).await?;
    let took = started.elapsed();
    if outcome.exit_code == Some(0) {
        Ok(took)
    } else {
        Err(format!("measure connections through the gateway: the client failed: {outcome:?}").into())
    }
}

/// Returns the time of a download in a namespace of slirp4netns.
fn through_slirp(server: SocketAddr) -> io::Result<Duration> {
    let [shell, rest @ ..] = line(IN_SLIRP, SLIRP_HOST, server.port());
    let mut client = Spawn::new("unshare");
    client.args(["--user", "--map-root-user", "--net"]).arg(shell).args(rest).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Reaped(client.stderr(Stdio::null()).spawn()?);
    let (input, output) = (client.0.stdin.take(), client.0.stdout.take());
    let (Some(mut input), Some(output)) = (input, output) else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let mut output = BufReader::new(output);
    output.read_line(&mut String::new())?;
    let mut network = Spawn::new("slirp4netns");
    network.args(["--configure", SLIRP_MTU, "--ready-fd=1", &client.0.id().to_string(), "tap0"]);
    let mut network = Reaped(network.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    network.0.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut [0])?;
    let started = Instant::now();
    input.write_all(b"\n")?;
    if client.0.wait()?.success() { Ok(started.elapsed()) } else { Err(io::ErrorKind::Other.into()) }
}

/// A process that is killed when the value is dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // The process may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a server on the loopback that ends with this process. Each client is served in a thread.
fn serve(answer: fn(TcpStream) -> io::Result<()>) -> io::Result<SocketAddr> {
    let (listener, address) = listen()?;
    thread::Builder::new().name("bench-server".to_owned()).spawn(move || {
        for client in listener.incoming().flatten() {
            // The benchmark reports the failure of a client that ends early.
            thread::spawn(move || answer(client));
        }
    })?;
    Ok(address)
}

fn send_all(mut client: TcpStream) -> io::Result<()> {
    let part = vec![0; 1 << 18];
    (0..BULK / part.len()).try_for_each(|_| client.write_all(&part))
}

fn send_byte(mut client: TcpStream) -> io::Result<()> {
    client.write_all(b"x")
}

/// Starts a server that answers only when all connections are open.
fn serve_together() -> io::Result<SocketAddr> {
    let (listener, address) = listen()?;
    thread::Builder::new().name("bench-server".to_owned()).spawn(move || {
        loop {
            let clients: Vec<TcpStream> = listener.incoming().flatten().take(AT_ONCE).collect();
            for mut client in clients {
                client.write_all(b"x").ok();
            }
        }
    })?;
    Ok(address)
}

fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
