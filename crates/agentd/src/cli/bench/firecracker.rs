//! Measures the machines of Firecracker. For comparison, measures Firecracker alone: loading the memory from which the machines
//! start, and one round trip over vsock.

use super::{
    figure::{self, Figure, Row, figure},
    report::{BARE, RESTORE},
};
use crate::cli::failure::Failure;
use crate::isolation::{FirecrackerBackend, FirecrackerConfig};
use agentd_core::{IsolationBackend, IsolationError, Sandbox, SandboxSpec};
use agentd_log::LogFailure as _;
use std::{
    fs,
    future::ready,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// The time limit for Firecracker to listen and to reply.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two attempts to connect to Firecracker.
const PAUSE: Duration = Duration::from_millis(5);

/// Names under which a saved machine finds its files.
const API: &str = "api";
const VSOCK: &str = "vsock";
const DISK: &str = "disk";
const ASSETS: &str = "assets";
const SNAPSHOT: &str = "snapshot";
/// Port on which the agent of a saved machine listens, and the port on which the agent listens once it has noticed that it was
/// restored.
const PORTS: [u32; 2] = [1024, 1025];
/// Port on which the host waits for the agent.
const READY_PORT: u32 = 53;

/// Name of the snapshot that a saved sandbox restores.
const SAVED: &str = "bench";

/// The time for which a saved sandbox stays idle after a restore. By then, the previous machine has ended and the spare
/// Firecracker for the next restore has started, even in an emulated machine.
const NEXT_SPARE: Duration = Duration::from_secs(3);

/// Firecracker without the backend.
struct FirecrackerAlone {
    program: PathBuf,
    folder: PathBuf,
}

/// Adds the rows of Firecracker and returns their live sandboxes. If the backend is unavailable, prints the reason and returns
/// none.
pub(super) async fn rows(scratch: &Path, figures: &mut Vec<Figure>) -> Result<Vec<Arc<dyn Sandbox>>, Failure> {
    let Some(data) = crate::isolation::data_directory() else { return Ok(Vec::new()) };
    let config = FirecrackerConfig::in_data_dir(&data);
    let backend: Arc<dyn IsolationBackend> =
        Arc::new(FirecrackerBackend::new(FirecrackerConfig { work_root: scratch.to_owned(), ..config.clone() })?);
    let live = match backend.create_sandbox(SandboxSpec::default()).await {
        Err(error @ IsolationError::Unavailable { .. }) => {
            eprintln!("agentd: skip the rows of firecracker: {error}");
            return Ok(Vec::new());
        }
        made => made?,
    };
    let saved = backend.create_sandbox(SandboxSpec::default()).await?;
    figure::exec(&saved).await?;
    saved.snapshot(SAVED).await?;
    let bare = FirecrackerAlone::start(&config, &scratch.join("firecracker"))?;
    figures.push(figure("firecracker: exec in a live machine", Row::Exec(live.clone())));
    figures.push(figure("firecracker: create + first exec", create_and_first_exec(backend)));
    figures.push(figure(RESTORE, restore(saved.clone())));
    figures.push(figure(BARE, Row::Timed(Box::new(move || Box::pin(ready(bare.load()))))));
    Ok(vec![live, saved])
}

/// Measures the time until the first exec has ended in a new sandbox, whose machine starts from a booted snapshot.
fn create_and_first_exec(backend: Arc<dyn IsolationBackend>) -> Row {
    Row::Timed(Box::new(move || {
        let backend = backend.clone();
        Box::pin(async move {
            let started = Instant::now();
            let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
            figure::exec(&sandbox).await?;
            let took = started.elapsed();
            sandbox.destroy().await?;
            Ok(took)
        })
    }))
}

/// Measures the time until the first exec has ended in a sandbox that restores a snapshot.
fn restore(saved: Arc<dyn Sandbox>) -> Row {
    Row::Timed(Box::new(move || {
        let saved = saved.clone();
        Box::pin(async move {
            let started = Instant::now();
            saved.restore(SAVED).await?;
            figure::exec(&saved).await?;
            let took = started.elapsed();
            tokio::time::sleep(NEXT_SPARE).await;
            Ok(took)
        })
    }))
}

impl FirecrackerAlone {
    /// Prepares a folder in which Firecracker loads the snapshot that the backend used last.
    fn start(config: &FirecrackerConfig, folder: &Path) -> Result<Self, Failure> {
        let template = last_used(&config.templates).ok_or("measure Firecracker alone: no template of a machine exists")?;
        fs::create_dir(folder)?;
        symlink(&config.assets, folder.join(ASSETS))?;
        symlink(&template, folder.join(SNAPSHOT))?;
        // Writes to the disk must not reach the backend's file, so copy the disk.
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(template.join(DISK)).arg(folder.join(DISK));
        if !copy.status()?.success() {
            return Err("measure Firecracker alone: cp of the template's disk failed".into());
        }
        Ok(Self { program: config.programs.join("firecracker"), folder: folder.to_owned() })
    }

    /// Loads the snapshot in a running Firecracker. Returns the time until the machine has replied, without the time that
    /// Firecracker takes to start and to end.
    fn load(&self) -> Result<Duration, Failure> {
        for socket in [API, VSOCK, &format!("{VSOCK}_{READY_PORT}")] {
            fs::remove_file(self.folder.join(socket)).or_else(ignore_not_found)?;
        }
        // An agent that finds no listener on this port ends its machine.
        let _ready = UnixListener::bind(self.folder.join(format!("{VSOCK}_{READY_PORT}")))?;
        let mut command = Command::new(&self.program);
        command.args(["--id", "bare", "--api-sock", API, "--level", "Error"]).current_dir(&self.folder);
        let running = BenchMachine(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let mut api = self.api()?;
        let started = Instant::now();
        put_load(&mut api)?;
        self.there_and_back()?;
        let took = started.elapsed();
        drop(running);
        Ok(took)
    }

    fn api(&self) -> Result<UnixStream, Failure> {
        let end = Instant::now() + TIMEOUT;
        loop {
            match UnixStream::connect(self.folder.join(API)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    return Ok(stream);
                }
                Err(error) if Instant::now() > end => return Err(format!("connect to Firecracker's API socket: {error}").into()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Connects to the guest and waits until its kernel accepts the connection.
    fn there_and_back(&self) -> Result<(), Failure> {
        for port in PORTS {
            let mut stream = UnixStream::connect(self.folder.join(VSOCK))?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            if answer.starts_with("OK ") {
                return Ok(());
            }
        }
        Err("connect to the agent in the restored machine: every connection was refused".into())
    }
}

/// A running Firecracker; dropping the value kills it.
struct BenchMachine(Child);

impl Drop for BenchMachine {
    fn drop(&mut self) {
        // Both calls fail only if the process has already ended.
        self.0.kill().or_debug("kill Firecracker", self.0.id());
        self.0.wait().or_debug("wait for Firecracker", self.0.id());
    }
}

/// Sends the request to load the snapshot, and waits for the reply.
fn put_load(api: &mut UnixStream) -> Result<(), Failure> {
    let body = serde_json::json!({
        "snapshot_path": format!("{SNAPSHOT}/state"),
        "mem_backend": { "backend_type": "File", "backend_path": format!("{SNAPSHOT}/memory") },
        "resume_vm": true,
    })
    .to_string();
    let head = format!("PUT /snapshot/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    api.write_all((head + &body).as_bytes())?;
    let mut answer = [0; 1024];
    let length = api.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    if answer.starts_with("HTTP/1.1 204") {
        Ok(())
    } else {
        Err(format!("load the snapshot: Firecracker replied {answer:?}").into())
    }
}

fn ignore_not_found(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Returns the saved machine that was used last.
fn last_used(templates: &Path) -> Option<PathBuf> {
    let used = |path: &Path| fs::metadata(path.join("used")).and_then(|file| file.modified()).ok();
    let all = fs::read_dir(templates).ok()?.flatten().map(|entry| entry.path());
    all.filter_map(|path| Some((used(&path)?, path))).max().map(|(_, path)| path)
}
