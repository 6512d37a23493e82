//! One running Firecracker process and its machine: starts it, controls it through the API, connects to its guest over vsock, and
//! ends it.

use super::{
    api::{Action, Api, BootSource, Drive, Entropy, MachineConfig, MemoryBackend, SnapshotCreate, SnapshotLoad, SnapshotType},
    api::{RateLimiter, TokenBucket, VmState, Vsock},
    boot,
    config::{DiskRate, REMEDY, unavailable},
    disk,
    files::{ASSETS, DISK, INITRAMFS, MEMORY, OUT, SNAPSHOT, STATE},
    jail::{self, Jail},
    metrics_pipe::MetricsPipe,
    process::Process,
    size::Size,
};
use agentd_core::IsolationError;
use agentd_isolation::{blocking::blocking, store::Fresh};
use agentd_log::LogFailure as _;
use agentd_supervisor::role::Role;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, timeout},
};

/// The vsock socket, in Firecracker's root.
const VSOCK: &str = "vsock";

/// The kernel command line of every machine. A restart (`reboot=k`) makes Firecracker exit, and a panic causes a restart
/// (`panic=-1`). The `8250`, `i8042` and `pci` options skip the probing of devices that the machine lacks or does not use, so
/// there is no serial console. `random.trust_cpu=on` lets the kernel seed its random numbers from the CPU.
const BOOT_ARGS: &str =
    "reboot=k panic=-1 quiet 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd pci=off random.trust_cpu=on";

/// The vsock CID of every guest. Each Firecracker has its own socket on the host's side, so all guests can have the same CID.
const GUEST_CID: u32 = 3;

/// The time limit for Firecracker to answer on its API socket.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// The time limit for a guest's agent to listen. A boot under emulation takes seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// The time after which a machine without any device access counts as failed. A booting kernel accesses devices within a fraction
/// of this.
const LIFE_TIMEOUT: Duration = Duration::from_secs(7);
/// The number of attempts to attach to an agent.
const TRIES: u32 = 4;
/// The time limit for a new control connection after a connection is lost.
const RENEWAL: Duration = Duration::from_secs(3);
/// The interval of attempts to connect to Firecracker's API socket. There is no notification when the socket appears.
const PAUSE: Duration = Duration::from_millis(2);
/// The longest line with which Firecracker answers `CONNECT`, in bytes.
const MAX_ANSWER: usize = 32;
/// The maximum length of a guest's message that its agent could not start, in bytes.
const MAX_WHY: usize = 4 << 10;

/// The memory allowance of Firecracker in addition to the guest's, in bytes. Its own pages take a few MB; page tables and I/O
/// take more.
const OVERHEAD: u64 = 128 << 20;

/// The start of a machine that [`Vm::wait_until_ready`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// The machine boots a kernel. Without any device access, it counts as failed after [`LIFE_TIMEOUT`].
    Boot,
    /// The machine resumes from its memory.
    Memory,
}

/// A Firecracker that does not answer yet, which ends when this is dropped.
struct Starting {
    root: OwnedFd,
    process: Process,
    metrics_pipe: MetricsPipe,
    ready: UnixListener,
}

/// A running Firecracker, which ends when this is dropped.
pub(super) struct Vm {
    folder: PathBuf,
    /// Firecracker's root, opened. Sockets are reached through this descriptor, because `unix(7)` limits the path of a socket to
    /// 108 bytes.
    root: OwnedFd,
    process: Process,
    api: tokio::sync::Mutex<Api>,
    metrics_pipe: MetricsPipe,
    ready: UnixListener,
    /// The agent's control connection and the port at which the agent listens. The agent opens a new control connection if this
    /// one breaks.
    control_connection: Mutex<Option<(UnixStream, u32)>>,
}

impl Vm {
    /// Starts Firecracker in a fresh folder, after `furnish` has created files in its root. No machine runs yet. The snapshot for
    /// a later [`Vm::load`] need not be known.
    pub(super) async fn start(
        fresh: Fresh,
        programs: &Path,
        size: Size,
        assets: &Path,
        furnish: impl FnOnce(&Path) -> Result<(), IsolationError> + Send + 'static,
    ) -> Result<Self, IsolationError> {
        let Fresh { folder, lock } = fresh;
        let jail = Jail {
            folder: folder.clone(),
            programs: programs.to_path_buf(),
            memory: (size.memory_mib << 20) + OVERHEAD,
            assets: assets.to_path_buf(),
        };
        // If the caller is cancelled, the closure still runs to its end. It removes the folder if it fails; otherwise its result
        // is dropped, which ends the shim, and the shim removes the folder.
        let Starting { root, process, metrics_pipe, ready } = blocking(move || {
            let starting = Starting::begin(&jail, lock, furnish);
            if starting.is_err() {
                remove_failed(&jail.folder);
            }
            starting
        })
        .await?;
        match connect(&root, &process).await {
            Ok(api) => {
                let (api, control_connection) = (tokio::sync::Mutex::new(api), Mutex::default());
                Ok(Self { folder, root, process, api, metrics_pipe, ready, control_connection })
            }
            Err(error) => {
                process.end();
                process.gone().await;
                blocking(move || {
                    remove_failed(&folder);
                    Err(error)
                })
                .await
            }
        }
    }

    /// Boots a machine and waits until its agent listens.
    pub(super) async fn boot(&self, size: Size, rate: DiskRate) -> Result<(), IsolationError> {
        let a_second = |size| TokenBucket { size, refill_time: 1000 };
        let rate_limiter = RateLimiter { bandwidth: a_second(rate.bytes.get()), ops: a_second(rate.requests.get()) };
        let args = format!("{BOOT_ARGS} {}", Role::Init.definition());
        let (kernel, root) = (format!("{ASSETS}/vmlinux"), format!("{ASSETS}/root.ext4"));
        {
            let mut api = self.api.lock().await;
            let config = MachineConfig { vcpu_count: size.vcpus, mem_size_mib: size.memory_mib };
            api.put("/machine-config", &config).await?;
            let source = BootSource { kernel_image_path: &kernel, initrd_path: INITRAMFS, boot_args: &args };
            api.put("/boot-source", &source).await?;
            let shared =
                Drive { drive_id: "shared", path_on_host: &root, is_root_device: false, is_read_only: true, rate_limiter };
            api.put("/drives/shared", &shared).await?;
            let own = Drive { drive_id: DISK, path_on_host: DISK, is_root_device: false, is_read_only: false, rate_limiter };
            api.put("/drives/disk", &own).await?;
            api.put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: VSOCK }).await?;
            api.put("/entropy", &Entropy {}).await?;
            api.put("/actions", &Action::InstanceStart).await?;
        }
        self.wait_until_ready(From::Boot).await
    }

    /// Waits until the agent reports that it listens, for up to [`BOOT_TIMEOUT`]. Fails earlier if Firecracker ends, or if a
    /// booting machine has not accessed a device within [`LIFE_TIMEOUT`].
    async fn wait_until_ready(&self, from: From) -> Result<(), IsolationError> {
        let begin = Instant::now();
        let ready = async {
            let (mut stream, _) = self.ready.accept().await?;
            let mut line = Vec::new();
            loop {
                if let Some(port) = boot::port(&line) {
                    return Ok::<_, io::Error>(Ok((stream, port)));
                }
                if line.len() > MAX_WHY || stream.read_buf(&mut line).await? == 0 {
                    return Ok(Err(String::from_utf8_lossy(&line).into_owned()));
                }
            }
        };
        let life = async {
            if from == From::Boot {
                tokio::time::sleep(LIFE_TIMEOUT).await;
                if let Ok(false) = self.has_done_anything().await {
                    return;
                }
            }
            tokio::time::sleep_until(begin + BOOT_TIMEOUT).await;
        };
        let failed = |why: String| Err(unavailable(why));
        tokio::select! {
            result = ready => match result {
                Ok(Ok(control_connection)) => {
                    self.control_connection.lock().unwrap_or_else(PoisonError::into_inner).replace(control_connection);
                    Ok(())
                }
                Ok(Err(why)) => failed(format!("the guest failed to start: {why} — {REMEDY}")),
                Err(source) => Err(IsolationError::Io { context: "wait for the guest agent".to_owned(), source }),
            },
            () = self.process.gone() => {
                failed(format!("Firecracker exited before the guest agent was ready: {} — {REMEDY}", self.process.log_tail()))
            }
            () = life => {
                let waited = begin.elapsed().as_secs();
                if waited < BOOT_TIMEOUT.as_secs() {
                    failed(format!(
                        "the guest kernel accessed no device within {waited} s: /dev/kvm exists, but probably cannot run guests \
                         on this host — check nested virtualisation on the host, or use --backend gondolin"
                    ))
                } else {
                    failed(format!("the guest agent was not ready within {waited} s: {} — {REMEDY}", self.process.log_tail()))
                }
            }
        }
    }

    /// Returns whether the guest has ever accessed a device.
    async fn has_done_anything(&self) -> Result<bool, IsolationError> {
        self.api.lock().await.put("/actions", &Action::FlushMetrics).await?;
        Ok(self.metrics_pipe.any_exit().await)
    }

    /// Resumes the machine of a snapshot and waits until its agent has opened a new control connection. The snapshot must not
    /// change while the machine runs.
    pub(super) async fn load(&self, snapshot: &Path) -> Result<(), IsolationError> {
        let (from, to) = (snapshot.join(DISK), jail::root(&self.folder).join(DISK));
        blocking(move || disk::copy(&from, &to)).await?;
        self.process.show(snapshot).await?;
        let (state, memory) = (format!("{SNAPSHOT}/{STATE}"), format!("{SNAPSHOT}/{MEMORY}"));
        let load = SnapshotLoad { snapshot_path: &state, mem_backend: MemoryBackend::File(&memory), resume_vm: true };
        self.put("/snapshot/load", &load).await?;
        self.wait_until_ready(From::Memory).await
    }

    /// Saves the machine: pauses it, writes memory and device state to two files, calls `keep`, and resumes the machine. `keep`
    /// receives the directory with the two files, which it moves out, and the path of the disk, which it copies.
    ///
    /// Saving breaks all vsock connections of the guest (Firecracker's `docs/snapshotting/snapshot-support.md`, "Vsock device
    /// reset"). This function waits for the new control connection.
    pub(super) async fn save<T: Send + 'static>(
        &self,
        keep: impl FnOnce(&Path, &Path) -> Result<T, IsolationError> + Send + 'static,
    ) -> Result<T, IsolationError> {
        self.pause(true).await?;
        let kept = match self.write().await {
            Ok(()) => {
                let root = jail::root(&self.folder);
                blocking(move || keep(&root.join(OUT), &root.join(DISK))).await
            }
            Err(error) => Err(error),
        };
        self.pause(false).await?;
        self.wait_until_ready(From::Memory).await?;
        kept
    }

    async fn write(&self) -> Result<(), IsolationError> {
        let (state, memory) = (format!("{OUT}/{STATE}"), format!("{OUT}/{MEMORY}"));
        let create = SnapshotCreate { snapshot_type: SnapshotType::Full, snapshot_path: &state, mem_file_path: &memory };
        self.put("/snapshot/create", &create).await
    }

    /// Pauses or resumes the vCPUs of the machine.
    pub(super) async fn pause(&self, paused: bool) -> Result<(), IsolationError> {
        let state = if paused { VmState::Paused } else { VmState::Resumed };
        Ok(self.api.lock().await.patch("/vm", &state).await?)
    }

    async fn put(&self, path: &str, body: &(impl Serialize + Sync)) -> Result<(), IsolationError> {
        Ok(self.api.lock().await.put(path, body).await?)
    }

    /// Calls `attach` with a connection to the agent, up to [`TRIES`] times.
    ///
    /// A resumed guest may notice late that its connections were reset, and then also closes connections made in the meantime.
    /// The guest then opens a new control connection, so each retry waits for one.
    pub(super) async fn attached<T, F>(&self, attach: impl Fn(UnixStream) -> F) -> Result<T, IsolationError>
    where
        F: Future<Output = Result<T, IsolationError>>,
    {
        for _ in 1..TRIES {
            let tried = match self.transport().await {
                Ok(transport) => attach(transport).await,
                Err(error) => Err(error),
            };
            let Err(error) = tried else { return tried };
            if !matches!(timeout(RENEWAL, self.wait_until_ready(From::Memory)).await, Ok(Ok(()))) {
                return Err(error);
            }
        }
        attach(self.transport().await?).await
    }

    /// Connects to the agent.
    async fn transport(&self) -> Result<UnixStream, IsolationError> {
        let io = |source| IsolationError::Io { context: "connect to the guest agent".to_owned(), source };
        let mut stream = UnixStream::connect(socket_path(&self.root, VSOCK)).await.map_err(io)?;
        let port = self.control_connection.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, port)| *port);
        let port = port.ok_or_else(|| IsolationError::MachineLost("the guest agent has not reported its port".to_owned()))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(io)?;
        let mut answer = Vec::new();
        // Read single bytes: the bytes after the line belong to the agent's protocol.
        while !answer.ends_with(b"\n") {
            let byte = stream.read_u8().await.map_err(io)?;
            answer.push(byte);
            if answer.len() > MAX_ANSWER {
                return Err(IsolationError::Protocol(
                    "connect to the guest agent: Firecracker's reply to CONNECT is too long".to_owned(),
                ));
            }
        }
        if answer.starts_with(b"OK ") {
            return Ok(stream);
        }
        Err(IsolationError::Protocol(format!(
            "connect to the guest agent: Firecracker refused CONNECT: {:?}",
            String::from_utf8_lossy(&answer)
        )))
    }

    /// Ends Firecracker and its machine without waiting.
    pub(super) fn end(&self) {
        self.process.end();
    }

    /// Waits until Firecracker has ended, and returns its last output.
    pub(super) async fn why_ended(&self) -> String {
        self.process.gone().await;
        format!("Firecracker exited: {}", self.process.log_tail())
    }

    /// Ends Firecracker, waits until its processes have exited, and removes the machine's folder.
    pub(super) async fn destroy(&self) -> Result<(), IsolationError> {
        self.process.end();
        self.process.gone().await;
        let folder = self.folder.clone();
        // Usually the shim has removed the folder already. It has not if it was killed.
        blocking(move || match fs::remove_dir_all(&folder) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(IsolationError::Io { context: format!("remove {}", folder.display()), source }),
        })
        .await
    }
}

impl Starting {
    /// Creates the files of a machine in its folder and starts the shim. May block on disk I/O, and must be called in a tokio
    /// runtime.
    fn begin(
        jail: &Jail,
        lock: fs::File,
        furnish: impl FnOnce(&Path) -> Result<(), IsolationError>,
    ) -> Result<Self, IsolationError> {
        let io = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let path = jail::root(&jail.folder);
        for name in [OUT, ASSETS, SNAPSHOT] {
            fs::create_dir_all(path.join(name)).map_err(io("create the folders of a machine"))?;
        }
        furnish(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| io("open the root folder of a machine")(e.into()))?;
        let metrics_pipe = MetricsPipe::make(&path).map_err(io("create the metrics pipe of a machine"))?;
        let ready = UnixListener::bind(socket_path(&root, &format!("{VSOCK}_{}", boot::READY_PORT)))
            .map_err(io("listen on the vsock socket of a machine"))?;
        Ok(Self { process: Process::start(jail, lock)?, root, metrics_pipe, ready })
    }
}

/// Removes the folder of a machine that failed to start. The error of the start is the cause to report, so a failure to remove
/// the folder is only logged.
fn remove_failed(folder: &Path) {
    fs::remove_dir_all(folder).or_warn("remove files of machine that failed to start", folder);
}

/// Returns the path of a socket in the open directory `root`.
fn socket_path(root: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", root.as_raw_fd()).into()
}

/// Connects to Firecracker's API, and retries until Firecracker listens.
async fn connect(root: &OwnedFd, process: &Process) -> Result<Api, IsolationError> {
    let path = socket_path(root, jail::API);
    let connect = async {
        loop {
            match Api::connect(&path).await {
                Ok(api) => return api,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        connected = timeout(START_TIMEOUT, connect) => connected.map_err(|_| {
            let waited = START_TIMEOUT.as_secs();
            unavailable(format!("Firecracker's API socket did not answer within {waited} s: {} — {REMEDY}", process.log_tail()))
        }),
        () = process.gone() => {
            Err(unavailable(format!("Firecracker exited before its API socket answered: {}", process.log_tail())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_isolation::store::Store;
    use std::{sync::mpsc, thread};

    /// The start fails after `furnish`, because a test has no role handler.
    #[test]
    fn start_cancelled_while_files_are_created_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = Store::new(&dir.path().join("machines"), |dead| fs::remove_dir_all(dead)).make().unwrap();
        let folder = fresh.folder.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (runtime_thread, (begun, has_begun), (go, goes)) = (thread::current().id(), mpsc::channel(), mpsc::channel());
        let furnish = move |root: &Path| {
            assert_ne!(thread::current().id(), runtime_thread, "the start blocks the runtime");
            fs::write(root.join("file"), "").unwrap();
            begun.send(()).unwrap();
            goes.recv().unwrap();
            Ok(())
        };
        runtime.block_on(async {
            let size = Size { vcpus: 1, memory_mib: 1, disk: 1 };
            let start =
                tokio::spawn(async move { Vm::start(fresh, Path::new("/"), size, Path::new("/"), furnish).await.map(drop) });
            tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
            start.abort();
            assert!(start.await.unwrap_err().is_cancelled());
        });
        assert!(folder.exists());
        go.send(()).unwrap();
        // Waits for the threads of blocking tasks.
        drop(runtime);
        assert!(!folder.exists());
    }
}
