//! Firecracker's machines, and beside them, as what they are compared with, Firecracker alone: nothing but loading the memory that they
//! start from, and once there and back over vsock.

use super::Failure;
use agentd_core::{IsolationBackend, IsolationError, Sandbox, SandboxSpec};
use agentd_isolation::{FirecrackerBackend, FirecrackerConfig};
use std::{
    fs,
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

/// How long Firecracker may take to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(5);

/// By which names a saved machine finds what it needs.
const API: &str = "api";
const VSOCK: &str = "vsock";
const DISK: &str = "disk";
const ASSETS: &str = "assets";
const SNAPSHOT: &str = "snapshot";
/// Where the agent of a saved machine listens; and, as soon as it has seen that it was loaded, where it does then.
const PORTS: [u32; 2] = [1024, 1025];
/// Where the host listens for it.
const READY_PORT: u32 = 53;

/// What [`Machines::saved`] goes back to.
pub(super) const SNAPSHOT_NAME: &str = "bench";

/// How long a saved sandbox is left alone after a restore: until the machine that was left has ended, and the spare Firecracker for the next
/// one is there, also in an emulated machine.
pub(super) const NEXT_SPARE: Duration = Duration::from_secs(3);

/// Both.
pub(super) struct Machines {
    pub backend: Arc<dyn IsolationBackend>,
    pub live: Arc<dyn Sandbox>,
    /// One that has been saved.
    pub saved: Arc<dyn Sandbox>,
    pub bare: Arc<Bare>,
}

/// How Firecracker is started by itself.
pub(super) struct Bare {
    program: PathBuf,
    folder: PathBuf,
}

impl Machines {
    /// Starts one; `None`, and why is said, where that is not possible.
    pub(super) async fn start(scratch: &Path) -> Result<Option<Self>, Failure> {
        let Some(data) = agentd_isolation::data_directory() else { return Ok(None) };
        let config = FirecrackerConfig::below(&data);
        let backend: Arc<dyn IsolationBackend> = FirecrackerBackend::new(config.clone(), scratch);
        let live = match backend.create_sandbox(SandboxSpec::default()).await {
            Err(error @ IsolationError::Unavailable { .. }) => {
                eprintln!("agentd: not measured: {error}");
                return Ok(None);
            }
            made => made?,
        };
        let saved = backend.create_sandbox(SandboxSpec::default()).await?;
        super::exec(&saved).await?;
        saved.snapshot(SNAPSHOT_NAME).await?;
        let bare = Arc::new(Bare::of(&config, &scratch.join("firecracker"))?);
        Ok(Some(Self { backend, live, saved, bare }))
    }
}

impl Bare {
    /// One that loads what the backend's machines go on from.
    fn of(config: &FirecrackerConfig, folder: &Path) -> Result<Self, Failure> {
        let template = last_used(&config.templates).ok_or("there is no saved machine")?;
        fs::create_dir(folder)?;
        symlink(&config.assets, folder.join(ASSETS))?;
        symlink(&template, folder.join(SNAPSHOT))?;
        // What is written to it does not matter here, and must not be written to the other.
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(template.join(DISK)).arg(folder.join(DISK));
        if !copy.status()?.success() {
            return Err("the disk of a saved machine could not be copied".into());
        }
        Ok(Self { program: config.programs.join("firecracker"), folder: folder.to_owned() })
    }

    /// Has a Firecracker that runs already load it; gives how long it took until the machine had answered. The time that Firecracker
    /// takes to start and to end is not in it.
    pub(super) fn load(&self) -> Result<Duration, Failure> {
        for socket in [API, VSOCK, &format!("{VSOCK}_{READY_PORT}")] {
            fs::remove_file(self.folder.join(socket)).or_else(absent)?;
        }
        // An agent that nobody hears ends its machine.
        let _ready = UnixListener::bind(self.folder.join(format!("{VSOCK}_{READY_PORT}")))?;
        let mut command = Command::new(&self.program);
        command.args(["--id", "bare", "--api-sock", API, "--level", "Error"]).current_dir(&self.folder);
        let running = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let mut api = self.api()?;
        let started = Instant::now();
        put_load(&mut api)?;
        self.there_and_back()?;
        let took = started.elapsed();
        drop(running);
        Ok(took)
    }

    fn api(&self) -> Result<UnixStream, Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.folder.join(API)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    return Ok(stream);
                }
                Err(error) if Instant::now() > end => return Err(format!("Firecracker does not listen: {error}").into()),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// A connection to the guest, which its kernel accepts.
    fn there_and_back(&self) -> Result<(), Failure> {
        for port in PORTS {
            let mut stream = UnixStream::connect(self.folder.join(VSOCK))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            if answer.starts_with("OK ") {
                return Ok(());
            }
        }
        Err("the saved machine accepts no connection".into())
    }
}

/// A Firecracker; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or does now.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Asks for it, and waits for the answer.
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
    if answer.starts_with("HTTP/1.1 204") { Ok(()) } else { Err(format!("Firecracker answered {answer:?}").into()) }
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The saved machine that was started from last.
fn last_used(templates: &Path) -> Option<PathBuf> {
    let used = |path: &Path| fs::metadata(path.join("used")).and_then(|file| file.modified()).ok();
    let all = fs::read_dir(templates).ok()?.flatten().map(|entry| entry.path());
    all.filter_map(|path| Some((used(&path)?, path))).max().map(|(_, path)| path)
}
