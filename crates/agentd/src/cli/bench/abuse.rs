//! Measures how much a sandbox that floods its gateway delays the connections of another sandbox.

use super::{
    egress::{command, line},
    figure::ratio,
};
use crate::cli::failure::Failure;
use agentd_core::{Command, EndReason, Sandbox};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

/// Opens 200 connections in turn, and prints the time of each in microseconds.
const TIMED: &str = "for ((i = 0; i < 200; i++)); do
        from=${EPOCHREALTIME/[.,]/}; exec 3<>/dev/tcp/$1/$2 && read -rN1 <&3 && exec 3>&- || exit
        echo $((${EPOCHREALTIME/[.,]/} - from))
    done";
/// Prints a line, and floods the gateway with connections to a granted port, attempts at another one, and queries.
const FLOOD: &str = "echo begun; exec 2>/dev/null
    while :; do : >/dev/tcp/$1/$2; : >/dev/tcp/$1/9; printf flood >/dev/udp/10.255.255.53/53; done";
/// The number of bytes of the printed times that are kept.
const CAPTURE: u64 = 64 << 10;

/// Returns the 99th percentile of the time of a connection in `quiet` while `hostile` floods its gateway, relative to the time
/// before the flood.
///
/// # Errors
/// A command could not be started, or a client failed.
pub(super) async fn slowdown(quiet: &Arc<dyn Sandbox>, hostile: &Arc<dyn Sandbox>, server: SocketAddr) -> Result<f64, Failure> {
    let before = slowest(quiet, server).await?;
    let mut flood = hostile.exec_streaming(client(FLOOD, server)).await?;
    let output = flood.take_streams().stdout.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    pipe::Receiver::from_owned_fd(output)?.read_exact(&mut [0; 6]).await?;
    let during = slowest(quiet, server).await;
    flood.end(EndReason::Cancelled).await?;
    flood.wait().await?;
    Ok(ratio(during?, before))
}

fn client(script: &str, server: SocketAddr) -> Command {
    Command { capture: CAPTURE, ..command(line(script, &server.ip().to_string(), server.port())) }
}

/// Returns the 99th percentile of the time of a connection.
async fn slowest(sandbox: &Arc<dyn Sandbox>, server: SocketAddr) -> Result<Duration, Failure> {
    let outcome = sandbox.exec(client(TIMED, server)).await?;
    let printed = String::from_utf8_lossy(&outcome.stdout.to_bytes()).into_owned();
    let mut times = printed.lines().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    times.sort_unstable();
    match times.get(times.len() * 99 / 100) {
        Some(time) if outcome.exit_code == Some(0) => Ok(Duration::from_micros(*time)),
        _ => Err(format!("measure connections during a flood: the client failed: {outcome:?}").into()),
    }
}
