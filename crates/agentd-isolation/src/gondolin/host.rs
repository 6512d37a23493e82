//! The host's side of a machine: Node and QEMU, in a sandbox of our own. They see nothing of the host but the installation, read-only, and
//! what is granted; a socket is all that leads out. So an escape from the machine ends where one from a container begins; and when the
//! sandbox ends, however agentd ends, so do both, and with its private file system go all sockets and disks that they had.

use super::{
    initramfs,
    plan::{DISK, MachinePlan, Plan},
    saved::Saved,
};
use crate::sandbox::LinkedSandbox;
use agentd_core::{Command, ExecHandle, IsolationError, Sandbox};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Deserialize;
use std::{future::Future, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{UnixStream, unix::pipe},
    sync::watch,
};

const PROGRAM: &str = include_str!("machine.mjs");

/// The most that is kept of what Node says when it fails.
const SAID: u64 = 4 << 10;

/// How long Node, QEMU and the guest may take to start: emulated, and while the host is busy.
const PATIENCE: Duration = Duration::from_secs(150);

/// What `machine.mjs` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// The machine did not start, or has ended.
    Failed(String),
}

/// What is known of a machine from what its host side says.
#[derive(Debug, Clone, Default)]
struct State {
    /// Why it is no more.
    ended: Option<String>,
}

/// A machine's host side.
pub(super) struct Host {
    sandbox: Arc<LinkedSandbox>,
    state: watch::Receiver<State>,
}

fn io(context: &str) -> impl Fn(std::io::Error) -> IsolationError + '_ {
    move |source| IsolationError::Io { context: context.to_owned(), source }
}

impl Host {
    /// Starts a machine in `sandbox`, over a copy of a saved disk where there is one, and gives the carrier to the agent that will be in its
    /// guest. What it has is gone when this fails.
    pub(super) async fn start(
        sandbox: Arc<LinkedSandbox>,
        plan: &Plan,
        saved: Option<&Saved>,
    ) -> Result<(Self, UnixStream), IsolationError> {
        let started = Self::try_start(&sandbox, &plan.machine, &plan.initramfs, saved).await;
        if started.is_err() {
            // The first error is the one to tell.
            sandbox.destroy().await.ok();
        }
        started
    }

    async fn try_start(
        sandbox: &Arc<LinkedSandbox>,
        machine: &MachinePlan,
        base: &Path,
        saved: Option<&Saved>,
    ) -> Result<(Self, UnixStream), IsolationError> {
        if let Some(saved) = saved {
            sandbox.write_file_from(Path::new(DISK), saved.open()?).await?;
        }
        sandbox.write_file(Path::new("/tmp/machine.mjs"), PROGRAM.as_bytes()).await?;
        let to = sandbox.open_file(Path::new("/tmp/initramfs"), true).await?;
        initramfs::write(base, to).map_err(io("write the machine's initramfs"))?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| io("make the carrier")(e.into()))?;
        let state = watch_over(sandbox.stream_on(&command(machine)?, theirs).await?)?;
        let carrier = std::os::unix::net::UnixStream::from(ours);
        carrier.set_nonblocking(true).map_err(io("make the carrier"))?;
        let carrier = UnixStream::from_std(carrier).map_err(io("make the carrier"))?;
        Ok((Self { sandbox: sandbox.clone(), state }, carrier))
    }

    /// Returns when the machine has ended, with why.
    pub(super) async fn ended(&self) -> IsolationError {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| state.ended.is_some()).await.ok().and_then(|state| state.ended.clone());
        IsolationError::Lost(format!("gondolin: {}", ended.as_deref().unwrap_or("its host side ended")))
    }

    /// Waits for an agent that attaches, until the machine has ended or takes too long.
    pub(super) async fn attached<T>(&self, agent: impl Future<Output = Result<T, IsolationError>>) -> Result<T, IsolationError> {
        tokio::select! {
            attached = agent => attached,
            why = self.ended() => Err(why),
            () = tokio::time::sleep(PATIENCE) => Err(IsolationError::Lost("gondolin: the machine did not start in time".to_owned())),
        }
    }

    /// Ends it at once; never waits.
    pub(super) fn kill(&self) {
        self.sandbox.kill();
    }

    /// The sandbox in which it runs.
    pub(super) fn sandbox(&self) -> &LinkedSandbox {
        &self.sandbox
    }
}

fn command(machine: &MachinePlan) -> Result<Command, IsolationError> {
    let asked = serde_json::to_string(machine).map_err(|error| io("describe the machine")(error.into()))?;
    let variables = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/root"),
        ("TMPDIR", "/tmp"),
        ("XDG_CACHE_HOME", "/tmp/cache"),
        ("GONDOLIN_SESSIONS_DIR", "/tmp/sessions"),
        ("AGENTD_MACHINE", &asked),
    ];
    Ok(Command {
        argv: ["/agentd/node", "/tmp/machine.mjs"].map(Into::into).to_vec(),
        env: variables.map(|(name, value)| (name.into(), value.into())).to_vec(),
        ..Command::default()
    })
}

/// Listens to what Node says for as long as it lives, and holds it: dropped, it would be ended.
fn watch_over(mut node: Box<dyn ExecHandle>) -> Result<watch::Receiver<State>, IsolationError> {
    let streams = node.take_streams();
    let receiver = |fd: Option<std::os::fd::OwnedFd>| {
        let fd = fd.ok_or_else(|| IsolationError::Protocol("a command without output".to_owned()))?;
        pipe::Receiver::from_owned_fd(fd).map_err(io("read what Node says"))
    };
    let (stdout, mut stderr) = (receiver(streams.stdout)?, receiver(streams.stderr)?);
    let (teller, state) = watch::channel(State::default());
    tokio::spawn(async move {
        let _node = node;
        let complaints = async {
            let mut said = Vec::new();
            // More than that is thrown away; nobody need be waiting.
            (&mut stderr).take(SAID).read_to_end(&mut said).await.ok();
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.ok();
            String::from_utf8_lossy(&said).trim().to_owned()
        };
        let news = async {
            // The program is ours and says little.
            let mut lines = BufReader::new(stdout.take(1 << 20)).lines();
            let mut failed = None;
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(Said::Failed(why)) => failed = Some(why),
                    Err(_) => failed = Some(format!("Node said {line:?}")),
                }
            }
            failed
        };
        let (complaints, failed) = tokio::join!(complaints, news);
        teller.send_modify(|state| state.ended = Some(failed.unwrap_or_else(|| format!("Node ended: {complaints}"))));
    });
    Ok(state)
}
