//! A backend whose "machine" is a process in new namespaces that runs the guest agent as in a virtual machine. It tests the code
//! that all virtual machine backends share, without a virtual machine.

use super::inventory;
use agentd::isolation::{
    BackendCapabilities, IsolationBackend, IsolationError, Sandbox, SandboxId, SandboxSpec,
    guest::{self, Attach, Copies, GuestSandbox, GuestSpec, Machine, MachineIdentity},
};
use agentd_kernel::cgroup::{Freezer, Hierarchy};
use agentd_supervisor::role::Role;
use async_trait::async_trait;
use rustix::{
    fs::{CWD, FileType, Mode},
    mount::{MountFlags, MountPropagationFlags},
    process::{Pid, PidfdFlags, Signal},
    thread::UnshareFlags,
};
use std::{
    ffi::CString,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

/// The name of the backend in the registry.
pub const NAME: &str = "test-machine";

/// Marks a process of this program as a starting machine; the value is a directory for its root.
const PLACE: &str = "AGENTD_TEST_MACHINE";

/// The maximum size in bytes of grants that are copied into a machine.
pub const MAX_COPIED: u64 = 1 << 20;

/// The argument of a process that creates the namespaces.
const ISOLATE: &str = "isolate";

/// Runs as a machine if this process was started as one: creates the namespaces, then runs as the first process in them. The
/// argument names the transport of the agent. Call this function first in `main`.
pub fn take_role() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let Some(transport) = std::env::args().nth(1) else { return };
    if std::env::args_os().nth(2).is_some_and(|arg| arg == ISOLATE) {
        isolate();
        let first = Command::new("/proc/self/exe").arg(transport).spawn().unwrap().wait().unwrap();
        std::process::exit(first.code().unwrap_or(99));
    }
    rustix::mount::mount("proc", "/proc", "proc", MountFlags::empty(), None).unwrap();
    let root = make_root(Path::new(&place)).unwrap();
    match Transport::from(&*transport) {
        Transport::Stdio => {
            agentd::isolation::take_role();
            panic!("{}", Role::Guest.command().unwrap().arg(root).exec())
        }
        Transport::Listener => listen(root),
    }
}

/// How a host connects to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// One connection over standard input and output.
    Stdio,
    /// Connections to a listening socket on standard input.
    Listener,
}

impl From<&str> for Transport {
    fn from(name: &str) -> Self {
        if name == "listener" { Self::Listener } else { Self::Stdio }
    }
}

fn isolate() {
    let flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    // SAFETY: this process has a single thread, and only starts another process.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// Creates a root: an overlay in memory over the host's root, with the directories of other users hidden.
fn make_root(place: &Path) -> std::io::Result<PathBuf> {
    rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)?;
    for name in ["up", "work", "root"] {
        std::fs::create_dir(place.join(name))?;
    }
    for hidden in ["tmp", "root", "home", "run"] {
        rustix::fs::mknodat(CWD, place.join("up").join(hidden), FileType::CharacterDevice, Mode::empty(), 0)?;
    }
    let (up, work, root) = (place.join("up"), place.join("work"), place.join("root"));
    let options = format!("lowerdir=/,upperdir={},workdir={}", up.display(), work.display());
    rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), Some(&*CString::new(options)?))?;
    Ok(root)
}

/// Serves the agent on the listening socket that is standard input.
fn listen(root: PathBuf) -> ! {
    agentd::isolation::take_role();
    let listener = std::os::unix::net::UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = runtime.block_on(async {
        let listener = Arc::new(tokio::net::UnixListener::from_std(listener).unwrap());
        let accept = || {
            let listener = listener.clone();
            async move { listener.accept().await.map(|(stream, _)| stream.into_split()) }
        };
        guest::serve(accept, root).await
    });
    std::process::exit(i32::from(served.is_err()));
}

/// A machine.
pub struct Process {
    backend: Arc<Machines>,
    /// The process outside the namespaces, which ends when the machine has ended.
    outer: Mutex<Child>,
    /// The first process of the machine.
    init: (Pid, OwnedFd),
    /// The inode number of its PID namespace.
    namespace: u64,
    /// The freezer of the machine, after the first suspension.
    freezer: Mutex<Option<Freezer>>,
    place: tempfile::TempDir,
}

impl Process {
    /// Starts a machine with a descriptor as its standard input and output.
    pub fn start(backend: &Arc<Machines>, transport: OwnedFd) -> Arc<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), backend, transport, Transport::Stdio)
    }

    fn start_in(place: tempfile::TempDir, backend: &Arc<Machines>, transport: OwnedFd, how: Transport) -> Arc<Self> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg(if how == Transport::Listener { "listener" } else { "stdio" })
            .arg(ISOLATE)
            .env(PLACE, place.path().join("machine"));
        std::fs::create_dir(place.path().join("machine")).unwrap();
        command.stdout(Stdio::from(transport.try_clone().unwrap())).stdin(transport);
        let outer = command.spawn().unwrap();
        let init = first_child(outer.id());
        let namespace = std::fs::metadata(format!("/proc/{}/ns/pid", init.0.as_raw_nonzero())).unwrap().ino();
        let (outer, freezer) = (Mutex::new(outer), Mutex::default());
        inventory::include_groups_of(namespace);
        Arc::new(Self { backend: backend.clone(), outer, init, namespace, freezer, place })
    }

    /// Starts a machine that listens on a socket; returns the machine and the path of the socket.
    pub fn listening(backend: &Arc<Machines>) -> (Arc<Self>, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        (Self::start_in(place, backend, listener.into(), Transport::Listener), socket)
    }

    /// Waits for the end of the machine and returns its exit code.
    pub fn wait(&self) -> Option<i32> {
        self.outer.lock().unwrap().wait().unwrap().code()
    }

    /// Kills the machine and removes its control groups.
    fn end(&self) {
        self.kill();
        self.outer.lock().unwrap().wait().unwrap();
        if let Some(freezer) = self.freezer.lock().unwrap().take() {
            while let Err(error) = freezer.try_remove() {
                assert_eq!(error.errno, Some(libc::EBUSY), "{error}");
            }
        }
        self.remove_groups();
    }

    /// Removes the control groups that sandboxes in this machine have created on the host.
    fn remove_groups(&self) {
        let own = format!("agentd.{}.", self.namespace);
        for group in inventory::groups() {
            while group.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)) {
                match std::fs::remove_dir(&group) {
                    // The kernel may take a moment to release the group after its last process has ended.
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => std::thread::yield_now(),
                    _ => break,
                }
            }
        }
    }
}

fn children(of: i32) -> Vec<i32> {
    // A process that has ended has no such file.
    let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn tree(root: i32) -> Vec<i32> {
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

fn first_child(of: u32) -> (Pid, OwnedFd) {
    loop {
        if let Some(pid) = children(i32::try_from(of).unwrap()).first() {
            let pid = Pid::from_raw(*pid).unwrap();
            return (pid, rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap());
        }
        std::thread::yield_now();
    }
}

#[async_trait]
impl Machine for Process {
    fn backend(&self) -> Arc<dyn IsolationBackend> {
        self.backend.clone()
    }

    fn kill(&self) {
        // The kernel kills all processes of the namespace when its first process ends.
        rustix::process::pidfd_send_signal(&self.init.1, Signal::KILL).ok();
        // With cgroup version 1, a frozen process does not handle SIGKILL until it is thawed.
        if let Some(freezer) = &*self.freezer.lock().unwrap() {
            while !freezer.set(false).unwrap() {}
        }
    }

    async fn destroy(&self) -> Result<(), IsolationError> {
        self.end();
        Ok(())
    }

    async fn suspend(&self) -> Result<(), IsolationError> {
        let mut freezer = self.freezer.lock().unwrap();
        if freezer.is_none() {
            static GROUPS: AtomicU32 = AtomicU32::new(1_000_000);
            let name = Hierarchy::name(GROUPS.fetch_add(1, Ordering::Relaxed));
            *freezer = Some(Hierarchy::detect().freezer(&name, None)?);
        }
        let root = self.init.0.as_raw_nonzero().get();
        let freezer = freezer.as_ref().unwrap();
        freezer.gather(|| tree(root))?;
        while !freezer.set(true)? {}
        Ok(())
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        if let Some(freezer) = self.freezer.lock().unwrap().as_ref() {
            while !freezer.set(false)? {}
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the identity of a machine. Its clock is that of the host, so it is not set.
pub fn identity(name: &str) -> MachineIdentity {
    MachineIdentity { realtime_ns: None, ..MachineIdentity::new(name).unwrap() }
}

/// The backend.
pub struct Machines {
    me: Weak<Self>,
    live: Mutex<Vec<Weak<GuestSandbox>>>,
}

impl Machines {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), live: Mutex::default() })
    }

    /// The name of the next.
    pub fn id(&self) -> SandboxId {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        SandboxId(format!("{NAME}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    async fn alive(&self) -> Vec<Arc<GuestSandbox>> {
        let all: Vec<_> = self.live.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        let mut alive = Vec::new();
        for sandbox in all {
            if sandbox.is_alive().await {
                alive.push(sandbox);
            }
        }
        alive
    }
}

#[async_trait]
impl IsolationBackend for Machines {
    fn name(&self) -> &str {
        NAME
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        Ok(BackendCapabilities::from_evidence(NAME, Vec::new()))
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        // As every backend of agentd does.
        let spec = agentd_isolation::own_state::checked(spec, &[])?;
        let (machine, socket) = Process::listening(&self.me.upgrade().unwrap());
        let sandbox = open_with_copies(self.id(), &machine, &socket, spec).await?;
        self.live.lock().unwrap().push(Arc::downgrade(&sandbox));
        Ok(sandbox)
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        Ok(self.alive().await.iter().map(|sandbox| sandbox.id().clone()).collect())
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        Ok(self.alive().await.into_iter().find(|sandbox| sandbox.id() == id).map(|sandbox| sandbox as Arc<dyn Sandbox>))
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        for sandbox in self.alive().await {
            sandbox.destroy().await?;
        }
        Ok(())
    }
}

/// Creates a sandbox in a machine without access to host files; grants are copied.
pub async fn open_with_copies(
    id: SandboxId,
    machine: &Arc<Process>,
    socket: &Path,
    spec: SandboxSpec,
) -> Result<Arc<GuestSandbox>, IsolationError> {
    let connect = async || tokio::net::UnixStream::connect(socket).await.unwrap();
    let copies = Copies::plan(&spec.grants, &machine.place.path().join("machine/copies"), MAX_COPIED).await?;
    for number in 0..copies.as_ref().map_or(0, |copies| copies.count()) {
        copies.as_ref().unwrap().fill(number, connect().await).await?;
    }
    let grants = copies.as_ref().map(|copies| copies.granted()).unwrap_or_default();
    let spec = GuestSpec { spec: SandboxSpec { grants, ..spec }, identity: Some(identity("guest")), copies };
    GuestSandbox::open(id, machine.clone(), connect().await, Attach::New(spec.into())).await
}

/// Registers the backend.
pub fn register() {
    agentd::isolation::register_backend_factory(NAME, &[], |_| Ok(Machines::new())).unwrap();
}
