//! One running Firecracker process and its machine: starts it, controls it through the API, connects to its guest over vsock, and
//! ends it.

mod agent;
mod start;

use super::{
    api::{Action, Api, BootSource, Drive, Entropy, MachineConfig, MemoryBackend, SnapshotCreate, SnapshotLoad, SnapshotType},
    api::{RateLimiter, TokenBucket, VmState, Vsock},
    config::DiskRate,
    disk,
    files::{ASSETS, DISK, INITRAMFS, MEMORY, OUT, SNAPSHOT, STATE},
    jail::{self, Jail},
    metrics_pipe::MetricsPipe,
    process::Process,
    size::Size,
};
use agent::StartedFrom;
use agentd_core::IsolationError;
use agentd_isolation::{blocking::blocking, store::Fresh};
use agentd_supervisor::role::Role;
use serde::Serialize;
use start::{Starting, connect, remove_failed};
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Mutex,
};
use tokio::net::{UnixListener, UnixStream};

/// The vsock socket, in Firecracker's root.
const VSOCK: &str = "vsock";

/// The kernel command line of every machine. A restart (`reboot=k`) makes Firecracker exit, and a panic causes a restart
/// (`panic=-1`). The `8250`, `i8042` and `pci` options skip the probing of devices that the machine lacks or does not use, so
/// there is no serial console. `random.trust_cpu=on` lets the kernel seed its random numbers from the CPU.
const BOOT_ARGS: &str =
    "reboot=k panic=-1 quiet 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd pci=off random.trust_cpu=on";

/// The vsock CID of every guest. Each Firecracker has its own socket on the host's side, so all guests can have the same CID.
const GUEST_CID: u32 = 3;

/// The memory allowance of Firecracker in addition to the guest's, in bytes. Its own pages take a few MB; page tables and I/O
/// take more.
const OVERHEAD: u64 = 128 << 20;

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
        self.wait_until_ready(StartedFrom::Boot).await
    }

    /// Resumes the machine of a snapshot and waits until its agent has opened a new control connection. The snapshot must not
    /// change while the machine runs.
    pub(super) async fn load(&self, snapshot: &Path) -> Result<(), IsolationError> {
        let (from, to) = (snapshot.join(DISK), jail::root(&self.folder).join(DISK));
        blocking(move || disk::copy(&from, &to)).await?;
        self.process.mount_snapshot(snapshot).await?;
        let (state, memory) = (format!("{SNAPSHOT}/{STATE}"), format!("{SNAPSHOT}/{MEMORY}"));
        let load = SnapshotLoad { snapshot_path: &state, mem_backend: MemoryBackend::File(&memory), resume_vm: true };
        self.put("/snapshot/load", &load).await?;
        self.wait_until_ready(StartedFrom::Memory).await
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
        self.wait_until_ready(StartedFrom::Memory).await?;
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
        // The shim has already removed the folder, unless the shim was killed.
        blocking(move || match fs::remove_dir_all(&folder) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(IsolationError::Io { context: format!("remove {}", folder.display()), source }),
        })
        .await
    }
}

/// Returns the path of a socket in the open directory `root`.
fn socket_path(root: &OwnedFd, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", root.as_raw_fd()).into()
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
