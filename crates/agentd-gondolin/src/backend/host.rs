//! The host's side of a machine: Node and QEMU in an agentd sandbox. They can access only the installation, read-only, and the
//! grants. The only connection out of the sandbox is one socket.
//!
//! An attacker who escapes from the machine is therefore still inside a container. The end of the sandbox, for whatever reason,
//! also ends Node and QEMU, and removes the private file system with their sockets and disks.

use super::{
    GondolinBackend, initramfs,
    plan::{DISK, MachinePlan, Plan},
    saved::Saved,
};
use agentd_core::{Command, ExecHandle, IsolationError, Sandbox};
use agentd_isolation::{blocking::blocking, sandbox::SharedKernelSandbox};
use agentd_log::LogFailure as _;
use agentd_supervisor::role;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Deserialize;
use std::{future::Future, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{UnixStream, unix::pipe},
    sync::watch,
};

const PROGRAM: &str = include_str!("machine.mjs");

/// The maximum length of Node's standard error that is kept, in bytes.
const MAX_STDERR: u64 = 4 << 10;

/// The maximum length of the guest's console output that is kept, in bytes.
const MAX_CONSOLE: usize = 2 << 10;

/// The time limit for Node to send the console output of a start that has taken too long.
const CONSOLE_WAIT: Duration = Duration::from_secs(5);

/// A message of `machine.mjs`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HostMessage {
    /// The last part of the output on the guest's console, after the start has taken too long.
    Console(String),
    /// The reason why the machine did not start, or has ended.
    Failed(String),
}

/// The state of a machine, according to the messages of its host side.
#[derive(Debug, Clone, Default)]
struct MachineState {
    /// The last output of the guest's console, once the start has taken too long.
    console: Option<String>,
    /// The reason for the end of the machine; `None` while the machine runs.
    ended: Option<String>,
}

/// The host's side of a machine.
pub(super) struct Host {
    sandbox: Arc<SharedKernelSandbox>,
    state: watch::Receiver<MachineState>,
}

fn io_error(context: &str) -> impl Fn(std::io::Error) -> IsolationError + '_ {
    move |source| IsolationError::Io { context: context.to_owned(), source }
}

impl Host {
    /// Starts a machine in `sandbox`, with a copy of a saved disk if there is one. Returns the transport to the agent in its
    /// guest. On an error, destroys `sandbox`. `limit` is the time after which Node sends the console output of a start.
    pub(super) async fn start(
        sandbox: Arc<SharedKernelSandbox>,
        plan: &Plan,
        saved: Option<&Saved>,
        limit: Duration,
    ) -> Result<(Self, UnixStream), IsolationError> {
        let node = command(&plan.machine, limit)?;
        let started = Self::try_start(&sandbox, &node, &plan.initramfs, saved).await;
        if started.is_err() {
            // The error of the start is the cause to report, so a failure to destroy the sandbox is only logged.
            sandbox.destroy().await.or_warn("destroy sandbox of machine that failed to start", sandbox.id());
        }
        started
    }

    async fn try_start(
        sandbox: &Arc<SharedKernelSandbox>,
        node: &Command,
        base: &Path,
        saved: Option<&Saved>,
    ) -> Result<(Self, UnixStream), IsolationError> {
        if let Some(saved) = saved {
            sandbox.write_file_from(Path::new(DISK), saved.open()?).await?;
        }
        sandbox.write_file(Path::new("/tmp/machine.mjs"), PROGRAM.as_bytes()).await?;
        let to = sandbox.open_file(Path::new("/tmp/initramfs"), true).await?;
        let base = base.to_path_buf();
        blocking(move || initramfs::write(&base, role::program()?, to).map_err(io_error("write the initramfs of the machine")))
            .await?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| io_error("create the socket to the guest agent")(e.into()))?;
        let state = watch_over(sandbox.stream_on(node, theirs).await?)?;
        let transport = std::os::unix::net::UnixStream::from(ours);
        transport.set_nonblocking(true).map_err(io_error("create the socket to the guest agent"))?;
        let transport = UnixStream::from_std(transport).map_err(io_error("create the socket to the guest agent"))?;
        Ok((Self { sandbox: sandbox.clone(), state }, transport))
    }

    /// Waits until the machine has ended and returns the reason.
    pub(super) async fn why_ended(&self) -> String {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| state.ended.is_some()).await.ok().and_then(|state| state.ended.clone());
        format!("gondolin: {}", ended.as_deref().unwrap_or("Node and QEMU exited"))
    }

    /// Waits for `agent` to attach, at most for `limit`. Returns `None` after that time. Fails if the machine ends first.
    pub(super) async fn attached<T>(
        &self,
        limit: Duration,
        agent: impl Future<Output = Result<T, IsolationError>>,
    ) -> Result<Option<T>, IsolationError> {
        tokio::select! {
            attached = agent => attached.map(Some),
            why = self.why_ended() => Err(IsolationError::MachineLost(why)),
            () = tokio::time::sleep(limit) => Ok(None),
        }
    }

    /// Returns the error of a start that takes too long, with the last console output of the guest.
    pub(super) async fn too_slow(&self, limit: Duration) -> IsolationError {
        let mut state = self.state.clone();
        let sent = state.wait_for(|state| state.console.is_some() || state.ended.is_some());
        // Node sends the output at the same time. If Node does not run, it sends none.
        let console = match tokio::time::timeout(CONSOLE_WAIT, sent).await {
            Ok(Ok(state)) => state.console.clone(),
            _ => None,
        };
        slow_start(limit, console.as_deref())
    }

    /// Ends the machine without waiting.
    pub(super) fn kill(&self) {
        self.sandbox.kill();
    }

    /// Returns the sandbox in which Node and QEMU run.
    pub(super) fn sandbox(&self) -> &SharedKernelSandbox {
        &self.sandbox
    }
}

/// Returns at most the last [`MAX_CONSOLE`] bytes.
fn end_of(mut text: String) -> String {
    let excess = text.len().saturating_sub(MAX_CONSOLE);
    text.drain(..text.ceil_char_boundary(excess));
    text
}

/// Returns the error of a start that has taken longer than `limit`.
fn slow_start(limit: Duration, console: Option<&str>) -> IsolationError {
    let limit = limit.as_secs();
    let console = match console.map(str::trim) {
        None => "the console output could not be read".to_owned(),
        Some("") => "the guest has printed nothing on its console".to_owned(),
        Some(console) => format!("last console output: {console:?}"),
    };
    GondolinBackend::unavailable(&format_args!(
        "the guest did not start within {limit} s; {console} — try again when the host is less busy; a program that uses the \
         library can set a longer `GondolinConfig::start_limit`"
    ))
}

fn command(machine: &MachinePlan, limit: Duration) -> Result<Command, IsolationError> {
    let asked =
        serde_json::to_string(machine).map_err(|error| io_error("serialise the configuration of the machine")(error.into()))?;
    let variables = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/root"),
        ("TMPDIR", "/tmp"),
        ("XDG_CACHE_HOME", "/tmp/cache"),
        ("GONDOLIN_SESSIONS_DIR", "/tmp/sessions"),
        ("AGENTD_MACHINE", &asked),
        ("AGENTD_START_LIMIT_MS", &limit.as_millis().to_string()),
    ];
    Ok(Command {
        argv: ["/agentd/node", "/tmp/machine.mjs"].map(Into::into).to_vec(),
        env: variables.map(|(name, value)| (name.into(), value.into())).to_vec(),
        ..Command::default()
    })
}

/// Reads Node's output until Node ends. The task owns the handle, because dropping it would end Node.
fn watch_over(mut node: Box<dyn ExecHandle>) -> Result<watch::Receiver<MachineState>, IsolationError> {
    let streams = node.take_streams();
    let receiver = |fd: Option<std::os::fd::OwnedFd>| {
        let fd = fd.ok_or_else(|| IsolationError::Protocol("Node was started without an output pipe".to_owned()))?;
        pipe::Receiver::from_owned_fd(fd).map_err(io_error("open the output pipe of Node"))
    };
    let (stdout, mut stderr) = (receiver(streams.stdout)?, receiver(streams.stderr)?);
    let (sender, state) = watch::channel(MachineState::default());
    tokio::spawn(async move {
        let _node = node;
        let stderr_text = async {
            let mut output = Vec::new();
            // Keep the first bytes and discard the rest, so that Node never blocks on a full pipe.
            (&mut stderr).take(MAX_STDERR).read_to_end(&mut output).await.or_debug("read standard error", "gondolin");
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.or_debug("read standard error", "gondolin");
            String::from_utf8_lossy(&output).trim().to_owned()
        };
        let messages = async {
            // Standard output comes from our own program, which writes little.
            let mut lines = BufReader::new(stdout.take(1 << 20)).lines();
            let mut failed = None;
            loop {
                let line = match lines.next_line().await {
                    Ok(Some(line)) => line,
                    Ok(None) => break,
                    Err(error) => {
                        failed = Some(format!("read the output of Node: {error}"));
                        break;
                    }
                };
                match serde_json::from_str(&line) {
                    Ok(HostMessage::Console(text)) => sender.send_modify(|state| state.console = Some(end_of(text))),
                    Ok(HostMessage::Failed(why)) => failed = Some(why),
                    Err(_) => failed = Some(format!("unexpected output of Node: {line:?}")),
                }
            }
            failed
        };
        let (stderr_text, failed) = tokio::join!(stderr_text, messages);
        sender.send_modify(|state| state.ended = Some(failed.unwrap_or_else(|| format!("Node exited: {stderr_text}"))));
    });
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_slow_start_has_end_of_console_output_and_remedy() {
        let console = end_of(format!("{}last line\n", "é".repeat(MAX_CONSOLE)));
        assert!(console.len() <= MAX_CONSOLE);
        let error = |console| slow_start(Duration::from_secs(75), console).to_string();
        assert!(error(Some(&console)).contains("last line\" — try again"), "{}", error(Some(&console)));
        assert!(error(Some("\n")).contains("within 75 s; the guest has printed nothing on its console — try again"));
        assert!(error(None).contains("could not be read — try again"));
    }
}
