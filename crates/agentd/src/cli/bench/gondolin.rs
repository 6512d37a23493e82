//! A machine of Gondolin's with agentd's sandbox in it, and beside it, as a peer, one that is Gondolin's alone.

use super::{Failure, PROGRAM};
use agentd_core::{Access, Command, ExecHandle, Grant, IsolationBackend, IsolationError, Sandbox, SandboxSpec, StdinSource};
use agentd_gondolin::Installation;
use agentd_isolation::{ContainerBackend, GondolinBackend, GondolinConfig};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const PEER: &str = include_str!("gondolin.mjs");

/// Both, while they live.
pub(super) struct Machines {
    pub sandbox: Arc<dyn Sandbox>,
    /// What a machine takes of the host's memory, bytes.
    pub memory: u64,
    pub alone: Arc<Alone>,
    around: Arc<dyn Sandbox>,
    /// Dropped, the peer is ended.
    _node: Box<dyn ExecHandle>,
}

/// Gondolin's own, and how it is asked.
pub(super) struct Alone(Mutex<(File, BufReader<File>)>);

impl Machines {
    /// Starts both; `None` where no Gondolin is installed.
    pub(super) async fn start(work_root: &Path) -> Result<Option<Self>, Failure> {
        let Some(data) = agentd_isolation::data_directory() else { return Ok(None) };
        let config = GondolinConfig::below(&data);
        let Ok(installed) = Installation::open(&config.installation) else { return Ok(None) };
        let backend = GondolinBackend::new(config, work_root);
        let before = memory_below(std::process::id());
        let sandbox = match backend.create_sandbox(SandboxSpec::default()).await {
            Err(IsolationError::Unavailable { .. }) => return Ok(None),
            made => made?,
        };
        let memory = memory_below(std::process::id()).saturating_sub(before);
        let (around, node, alone) = alone(&installed, work_root).await?;
        Ok(Some(Self { sandbox, memory, alone: Arc::new(alone), around, _node: node }))
    }

    /// Ends both.
    pub(super) async fn destroy(self) -> Result<(), IsolationError> {
        self.around.destroy().await?;
        self.sandbox.destroy().await
    }
}

/// Gondolin alone, with what it may see of the host as in the backend.
async fn alone(installed: &Installation, work_root: &Path) -> Result<(Arc<dyn Sandbox>, Box<dyn ExecHandle>, Alone), Failure> {
    let grant =
        |path: PathBuf, target: &str| Grant { path, target: Some(target.into()), access: Access::ReadOnly, protect: Vec::new() };
    let grants = vec![
        grant(installed.node(), "/agentd/node"),
        grant(installed.package(), "/agentd/package"),
        grant(installed.guest(), "/agentd/guest"),
    ];
    let around = ContainerBackend::new(work_root).create_sandbox(SandboxSpec { grants, ..SandboxSpec::default() }).await?;
    around.write_file(Path::new("/tmp/peer.mjs"), PEER.as_bytes()).await?;
    let variables = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/root"), ("GONDOLIN_SESSIONS_DIR", "/tmp/sessions")];
    let mut node = around
        .exec_streaming(Command {
            argv: ["/agentd/node", "/tmp/peer.mjs", PROGRAM].map(Into::into).to_vec(),
            env: variables.map(|(name, value)| (name.into(), value.into())).to_vec(),
            stdin: StdinSource::Stream,
            ..Command::default()
        })
        .await?;
    let streams = node.take_streams();
    let (Some(stdin), Some(stdout)) = (streams.stdin, streams.stdout) else { return Err("Node has no streams".into()) };
    Ok((around, node, Alone(Mutex::new((stdin.into(), BufReader::new(stdout.into()))))))
}

impl Alone {
    /// Has the program executed in one of the ways that it knows; gives how long that took.
    pub(super) fn execute(&self, way: &str) -> Result<Duration, Failure> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(streams.0, "{way}")?;
        let mut line = String::new();
        streams.1.read_line(&mut line)?;
        let took: u64 = line.trim().parse().map_err(|_| format!("Gondolin alone said {line:?}"))?;
        Ok(Duration::from_micros(took))
    }
}

/// What all processes below one take of memory, each its share of what it shares, bytes. Those that cannot be looked at are small.
fn memory_below(pid: u32) -> u64 {
    let mut total = 0;
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            next.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        total += share.unwrap_or(0) * 1024;
    }
    total
}
