//! One running Firecracker: started, asked by its API, reached over vsock, ended.

use super::{
    api::{Action, Api, BootSource, Drive, Entropy, MachineConfig, MemoryBackend, SnapshotCreate, SnapshotLoad, SnapshotType},
    api::{RateLimiter, TokenBucket, VmState, Vsock},
    boot,
    config::{DiskRate, unavailable},
    disk,
    process::Process,
    room::{self, Room},
    size::Size,
    vitals::Vitals,
};
use crate::store::{Fresh, blocking};
use agentd_core::IsolationError;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, timeout},
};

/// By which names Firecracker finds what it needs, in its root. A machine that is started again from a snapshot has the same ones.
pub(super) const ASSETS: &str = "assets";
pub(super) const DISK: &str = "disk";
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const SNAPSHOT: &str = "snapshot";
/// Where it writes a snapshot.
pub(super) const OUT: &str = "out";
/// The files of a snapshot.
pub(super) const STATE: &str = "state";
pub(super) const MEMORY: &str = "memory";
const VSOCK: &str = "vsock";

/// What every machine's kernel is told: to end the machine when it is asked to or panics (`reboot=k` is what Firecracker hears), and to
/// look for no devices that are not there. Without a serial console.
const BOOT_ARGS: &str =
    "reboot=k panic=-1 quiet 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd pci=off random.trust_cpu=on";

/// A machine's own number on vsock. Each has a socket of its own on the host's side, so all may have the same.
const GUEST_CID: u32 = 3;

/// How long Firecracker's process may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long a machine may take until its agent listens. Emulated ones take seconds.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// When one that has given no sign of life is given up: a kernel that starts talks to devices within a fraction of that.
const LIFE_PATIENCE: Duration = Duration::from_secs(7);
/// How often an agent is attached to.
const TRIES: u32 = 4;
/// How long a new lifeline may take when a connection is gone.
const RENEWAL: Duration = Duration::from_secs(3);
/// Between two tries to reach Firecracker's socket, which nobody tells to be there.
const PAUSE: Duration = Duration::from_millis(2);
/// The longest line that Firecracker answers to a `CONNECT`.
const MOST_ANSWER: usize = 32;
/// The most bytes of why a guest has no agent.
const MOST_WHY: usize = 4 << 10;

/// Memory of Firecracker itself, beside the guest's. Its own pages are few megabytes; page tables and I/O come to more.
const OVERHEAD: u64 = 128 << 20;

/// What a machine that is waited for starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// Its kernel. One that gives no sign of life is given up early.
    Boot,
    /// What it was doing.
    Memory,
}

/// A running Firecracker. Dropped, it ends.
pub(super) struct Vm {
    folder: PathBuf,
    /// Its root, opened: sockets are reached by it, whatever the length of its path (`unix(7)`, 108 bytes).
    root: OwnedFd,
    process: Process,
    api: tokio::sync::Mutex<Api>,
    vitals: Vitals,
    ready: UnixListener,
    /// The agent's lifeline, which it would replace if it ended, and the port at which it listens.
    lifeline: Mutex<Option<(UnixStream, u32)>>,
}

impl Vm {
    /// Starts Firecracker in a fresh folder, with what `furnish` puts into its root. No machine runs yet, and a snapshot that one will go
    /// on from need not be known.
    pub(super) async fn start(
        fresh: Fresh,
        programs: &Path,
        size: Size,
        assets: &Path,
        furnish: impl FnOnce(&Path) -> Result<(), IsolationError>,
    ) -> Result<Self, IsolationError> {
        let Fresh { folder, lock } = fresh;
        let made = Self::start_in(&folder, lock, programs, size, assets, furnish).await;
        if made.is_err() {
            // The first error is the one to tell.
            fs::remove_dir_all(&folder).ok();
        }
        made
    }

    async fn start_in(
        folder: &Path,
        lock: fs::File,
        programs: &Path,
        size: Size,
        assets: &Path,
        furnish: impl FnOnce(&Path) -> Result<(), IsolationError>,
    ) -> Result<Self, IsolationError> {
        let io = |context: &'static str| move |source| IsolationError::Io { context: context.to_owned(), source };
        let path = room::root(folder);
        for name in [OUT, ASSETS, SNAPSHOT] {
            fs::create_dir_all(path.join(name)).map_err(io("make a machine's folder"))?;
        }
        furnish(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| io("open a machine's folder")(e.into()))?;
        let vitals = Vitals::make(&path).map_err(io("make a machine's pipe"))?;
        let ready =
            UnixListener::bind(through(&root, &format!("{VSOCK}_{}", boot::READY_PORT))).map_err(io("listen for a machine"))?;
        let room = Room {
            folder: folder.to_path_buf(),
            programs: programs.to_path_buf(),
            memory: (size.memory_mib << 20) + OVERHEAD,
            assets: assets.to_path_buf(),
        };
        let process = Process::start(&room, lock)?;
        match connect(&root, &process).await {
            Ok(api) => {
                let (api, lifeline) = (tokio::sync::Mutex::new(api), Mutex::default());
                Ok(Self { folder: folder.to_path_buf(), root, process, api, vitals, ready, lifeline })
            }
            Err(error) => {
                process.end();
                process.gone().await;
                Err(error)
            }
        }
    }

    /// Starts a machine and waits until its agent listens.
    pub(super) async fn boot(&self, size: Size, rate: DiskRate) -> Result<(), IsolationError> {
        let a_second = |size| TokenBucket { size, refill_time: 1000 };
        let rate_limiter = RateLimiter { bandwidth: a_second(rate.bytes.get()), ops: a_second(rate.requests.get()) };
        let args = format!("{BOOT_ARGS} {}=1", boot::VARIABLE);
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

    /// Waits until the agent says that it listens, as long as the machine shows that it lives.
    async fn wait_until_ready(&self, from: From) -> Result<(), IsolationError> {
        let begin = Instant::now();
        let ready = async {
            let (mut stream, _) = self.ready.accept().await?;
            let mut said = Vec::new();
            loop {
                if let Some(port) = boot::port(&said) {
                    return Ok::<_, io::Error>(Ok((stream, port)));
                }
                if said.len() > MOST_WHY || stream.read_buf(&mut said).await? == 0 {
                    return Ok(Err(String::from_utf8_lossy(&said).into_owned()));
                }
            }
        };
        let life = async {
            if from == From::Boot {
                tokio::time::sleep(LIFE_PATIENCE).await;
                if let Ok(false) = self.has_done_anything().await {
                    return;
                }
            }
            tokio::time::sleep_until(begin + BOOT_PATIENCE).await;
        };
        let failed = |why: String| Err(unavailable(why));
        tokio::select! {
            said = ready => match said {
                Ok(Ok(lifeline)) => {
                    self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).replace(lifeline);
                    Ok(())
                }
                Ok(Err(why)) => failed(format!("the guest: {why}")),
                Err(source) => Err(IsolationError::Io { context: "hear of a machine".to_owned(), source }),
            },
            () = self.process.gone() => failed(format!("Firecracker ended while its machine started: {}", self.process.said())),
            () = life => {
                let waited = begin.elapsed().as_secs();
                if waited < BOOT_PATIENCE.as_secs() {
                    failed(format!(
                        "the machine's kernel had not done anything after {waited} s — /dev/kvm is there, but cannot run a guest here \
                         (nested virtualisation that does not work?); see `agentd doctor`"
                    ))
                } else {
                    failed(format!("the machine's agent did not answer within {waited} s: {}", self.process.said()))
                }
            }
        }
    }

    /// Whether the machine has ever talked to a device.
    async fn has_done_anything(&self) -> Result<bool, IsolationError> {
        self.api.lock().await.put("/actions", &Action::FlushMetrics).await?;
        Ok(self.vitals.any_exit().await)
    }

    /// Starts a machine from a snapshot, which must not change while it runs, and waits until its agent has seen that.
    pub(super) async fn load(&self, snapshot: &Path) -> Result<(), IsolationError> {
        let (from, to) = (snapshot.join(DISK), room::root(&self.folder).join(DISK));
        blocking(move || disk::copy(&from, &to)).await?;
        self.process.show(snapshot).await?;
        let (state, memory) = (format!("{SNAPSHOT}/{STATE}"), format!("{SNAPSHOT}/{MEMORY}"));
        let load = SnapshotLoad { snapshot_path: &state, mem_backend: MemoryBackend::File(&memory), resume_vm: true };
        self.put("/snapshot/load", &load).await?;
        self.wait_until_ready(From::Memory).await
    }

    /// Saves the machine: stops it, writes memory and devices to two files, and has `keep` take them out of the directory that it is
    /// given, and copy the disk it is given. Then the machine goes on, and all that was connected to it is not any more (Firecracker's
    /// `docs/snapshotting/snapshot-support.md`, "Vsock device reset").
    pub(super) async fn save<T: Send + 'static>(
        &self,
        keep: impl FnOnce(&Path, &Path) -> Result<T, IsolationError> + Send + 'static,
    ) -> Result<T, IsolationError> {
        self.pause(true).await?;
        let kept = match self.write().await {
            Ok(()) => {
                let root = room::root(&self.folder);
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

    /// Stops the machine, or lets it go on.
    pub(super) async fn pause(&self, paused: bool) -> Result<(), IsolationError> {
        let state = if paused { VmState::Paused } else { VmState::Resumed };
        Ok(self.api.lock().await.patch("/vm", &state).await?)
    }

    async fn put(&self, path: &str, body: &(impl Serialize + Sync)) -> Result<(), IsolationError> {
        Ok(self.api.lock().await.put(path, body).await?)
    }

    /// What `attach` makes of a connection to the agent. A machine that goes on from memory may see late that its connections are gone, and
    /// then also those are that were made meanwhile: its lifeline is a new one then, and this is tried again.
    pub(super) async fn attached<T, F>(&self, attach: impl Fn(UnixStream) -> F) -> Result<T, IsolationError>
    where
        F: Future<Output = Result<T, IsolationError>>,
    {
        for _ in 1..TRIES {
            let tried = match self.carrier().await {
                Ok(carrier) => attach(carrier).await,
                Err(error) => Err(error),
            };
            let Err(error) = tried else { return tried };
            if !matches!(timeout(RENEWAL, self.wait_until_ready(From::Memory)).await, Ok(Ok(()))) {
                return Err(error);
            }
        }
        attach(self.carrier().await?).await
    }

    /// A connection to the agent.
    async fn carrier(&self) -> Result<UnixStream, IsolationError> {
        let io = |source| IsolationError::Io { context: "connect to a machine's agent".to_owned(), source };
        let mut stream = UnixStream::connect(through(&self.root, VSOCK)).await.map_err(io)?;
        let port = self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, port)| *port);
        let port = port.ok_or_else(|| IsolationError::Lost("the machine's agent does not listen".to_owned()))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(io)?;
        let mut answer = Vec::new();
        // A byte at a time: what follows the line is the agent's.
        while !answer.ends_with(b"\n") {
            let byte = stream.read_u8().await.map_err(io)?;
            answer.push(byte);
            if answer.len() > MOST_ANSWER {
                return Err(IsolationError::Protocol("Firecracker's answer to CONNECT has no end".to_owned()));
            }
        }
        if answer.starts_with(b"OK ") {
            return Ok(stream);
        }
        Err(IsolationError::Protocol(format!("Firecracker answered CONNECT with {:?}", String::from_utf8_lossy(&answer))))
    }

    /// Has it end; does not wait.
    pub(super) fn end(&self) {
        self.process.end();
    }

    /// Ends it and waits until nothing of it is left.
    pub(super) async fn destroy(&self) -> Result<(), IsolationError> {
        self.process.end();
        self.process.gone().await;
        // The warden has removed it, unless it was killed.
        match fs::remove_dir_all(&self.folder) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(IsolationError::Io { context: format!("remove {}", self.folder.display()), source }),
        }
    }
}

/// The path of a socket in an open directory.
fn through(root: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", root.as_raw_fd()).into()
}

/// Waits until Firecracker listens.
async fn connect(root: &OwnedFd, process: &Process) -> Result<Api, IsolationError> {
    let path = through(root, room::API);
    let connect = async {
        loop {
            match Api::connect(&path).await {
                Ok(api) => return api,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        connected = timeout(START_PATIENCE, connect) => connected.map_err(|_| {
            unavailable(format!("Firecracker did not answer within {} s: {}", START_PATIENCE.as_secs(), process.said()))
        }),
        () = process.gone() => Err(unavailable(format!("Firecracker could not be started: {}", process.said()))),
    }
}

/// Makes what the library writes readable to Firecracker's user.
pub(super) fn readable(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}
