//! Measures a machine of Gondolin that contains agentd's sandbox and, for comparison, a machine of Gondolin alone.

use super::{
    figure::{Figure, PROGRAM, Row, figure},
    report::GONDOLIN,
};
use crate::cli::failure::Failure;
use crate::isolation::{ContainerBackend, GondolinBackend, GondolinConfig};
use agentd_core::{Access, Command, ExecHandle, Grant, IsolationBackend, IsolationError, Sandbox, SandboxSpec, StdinSource};
use agentd_gondolin::install::Installation;
use agentd_log::LogFailure as _;
use std::{
    fs::{self, File},
    future::ready,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const PEER: &str = include_str!("gondolin.mjs");

/// A machine of Gondolin alone, and the streams of the program that controls it.
struct GondolinAlone {
    streams: Mutex<(File, BufReader<File>)>,
    /// The handle of that program; dropping it ends the program.
    _node: Box<dyn ExecHandle>,
}

/// Adds the rows of Gondolin if it is installed. Returns the live sandboxes, and the host memory that a machine uses, in bytes.
pub(super) async fn rows(work_root: &Path, figures: &mut Vec<Figure>) -> Result<(Vec<Arc<dyn Sandbox>>, Option<u64>), Failure> {
    let none = (Vec::new(), None);
    let Some(data) = crate::isolation::data_directory() else { return Ok(none) };
    let config = GondolinConfig::in_data_dir(&data);
    let installed = Installation::open(&config.installation).or_debug("open the installation of Gondolin", &config.installation);
    let Some(installed) = installed else { return Ok(none) };
    let backend = GondolinBackend::with_config(work_root, config);
    let before = memory_below(std::process::id());
    let sandbox = match backend.create_sandbox(SandboxSpec::default()).await {
        Err(IsolationError::Unavailable { .. }) => return Ok(none),
        made => made?,
    };
    let memory = memory_below(std::process::id()).saturating_sub(before);
    let (around, alone) = alone(&installed, work_root).await?;
    let alone = Arc::new(alone);
    let [exec, by_session, by_sdk] = GONDOLIN;
    figures.push(figure(exec, Row::Exec(sandbox.clone())));
    for (name, way) in [(by_session, "session"), (by_sdk, "sdk")] {
        let alone = alone.clone();
        figures.push(figure(name, Row::Timed(Box::new(move || Box::pin(ready(alone.execute(way)))))));
    }
    Ok((vec![around, sandbox], Some(memory)))
}

/// Starts Gondolin alone, with the same view of the host as in the backend.
async fn alone(installed: &Installation, work_root: &Path) -> Result<(Arc<dyn Sandbox>, GondolinAlone), Failure> {
    let grant = |path: PathBuf, target: &str| Grant { target: Some(target.into()), ..Grant::new(path, Access::ReadOnly) };
    let grants = vec![
        grant(installed.node(), "/agentd/node"),
        grant(installed.package(), "/agentd/package"),
        grant(installed.guest(), "/agentd/guest"),
    ];
    let around = ContainerBackend::new(work_root, None)?.create_sandbox(SandboxSpec { grants, ..SandboxSpec::default() }).await?;
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
    let (Some(stdin), Some(stdout)) = (streams.stdin, streams.stdout) else {
        return Err("start Gondolin alone: Node's standard input and output are missing".into());
    };
    let streams = Mutex::new((stdin.into(), BufReader::new(stdout.into())));
    Ok((around, GondolinAlone { streams, _node: node }))
}

impl GondolinAlone {
    /// Executes the program by one of Gondolin's methods; returns the time that this took.
    fn execute(&self, way: &str) -> Result<Duration, Failure> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(streams.0, "{way}")?;
        let mut line = String::new();
        streams.1.read_line(&mut line)?;
        let took: u64 = line.trim().parse().map_err(|_| format!("measure Gondolin alone: unexpected output {line:?}"))?;
        Ok(Duration::from_micros(took))
    }
}

/// Returns the memory of a process and all its descendants in bytes. Shared memory counts proportionally (PSS). Processes that
/// cannot be inspected are small, and are skipped.
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
