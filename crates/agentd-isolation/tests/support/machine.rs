//! A backend whose machine is a process in namespaces of its own, in which agentd's agent runs as it does in a virtual machine: what the
//! kinds of real machines share is tested here, without one.

use super::inventory;
use agentd_isolation::{
    BackendCapabilities, IsolationBackend, IsolationError, Sandbox, SandboxId, SandboxSpec,
    guest::{self, Attach, Copies, GuestSandbox, GuestSpec, Identity, Machine},
};
use agentd_kernel::cgroup::{Freezer, Hierarchy};
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

/// Its name in the registry.
pub const NAME: &str = "test-machine";

/// Tells a process of this program that it is a machine that starts, and where it may make its root.
const PLACE: &str = "AGENTD_TEST_MACHINE";

/// The most bytes of grants that are copied into one.
pub const MOST_COPIED: u64 = 1 << 20;

/// What such a process is to do.
const ISOLATE: &str = "isolate";

/// Does the work of a machine, if this process was started as one: first makes namespaces, then is the first process in them. Its argument
/// says what its agent's carrier is. To be called first in `main`.
pub fn take_role() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let Some(carrier) = std::env::args().nth(1) else { return };
    if std::env::args_os().nth(2).is_some_and(|arg| arg == ISOLATE) {
        isolate();
        let first = Command::new("/proc/self/exe").arg(carrier).spawn().unwrap().wait().unwrap();
        std::process::exit(first.code().unwrap_or(99));
    }
    rustix::mount::mount("proc", "/proc", "proc", MountFlags::empty(), None).unwrap();
    let root = make_root(Path::new(&place)).unwrap();
    match Carrier::from(&*carrier) {
        Carrier::Stdio => panic!("{}", Command::new("/proc/self/exe").arg0(guest::ROLE).arg(root).env_clear().exec()),
        Carrier::Listener => listen(root),
    }
}

/// How a host connects to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// By its standard input and output, once.
    Stdio,
    /// To a socket that listens as its standard input.
    Listener,
}

impl From<&str> for Carrier {
    fn from(name: &str) -> Self {
        if name == "listener" { Self::Listener } else { Self::Stdio }
    }
}

fn isolate() {
    let flags = UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    // SAFETY: this process has one thread, and only starts another one.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// The host's own file system under a layer in memory, without what others have in it.
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

/// The agent over a socket that listens as standard input.
fn listen(root: PathBuf) -> ! {
    agentd_isolation::take_role();
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
    /// The process outside that ends when the machine has.
    outer: Mutex<Child>,
    /// Its first process.
    init: (Pid, OwnedFd),
    /// The number of its pid namespace.
    namespace: u64,
    /// What stops it, once it has been stopped.
    freezer: Mutex<Option<Freezer>>,
    place: tempfile::TempDir,
}

impl Process {
    /// Starts one with a descriptor as its standard input and output.
    pub fn start(backend: &Arc<Machines>, carrier: OwnedFd) -> Arc<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), backend, carrier, Carrier::Stdio)
    }

    fn start_in(place: tempfile::TempDir, backend: &Arc<Machines>, carrier: OwnedFd, how: Carrier) -> Arc<Self> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg(if how == Carrier::Listener { "listener" } else { "stdio" })
            .arg(ISOLATE)
            .env(PLACE, place.path().join("machine"));
        std::fs::create_dir(place.path().join("machine")).unwrap();
        command.stdout(Stdio::from(carrier.try_clone().unwrap())).stdin(carrier);
        let outer = command.spawn().unwrap();
        let init = first_child(outer.id());
        let namespace = std::fs::metadata(format!("/proc/{}/ns/pid", init.0.as_raw_nonzero())).unwrap().ino();
        let (outer, freezer) = (Mutex::new(outer), Mutex::default());
        Arc::new(Self { backend: backend.clone(), outer, init, namespace, freezer, place })
    }

    /// One with a socket to connect to.
    pub fn listening(backend: &Arc<Machines>) -> (Arc<Self>, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        (Self::start_in(place, backend, listener.into(), Carrier::Listener), socket)
    }

    /// Its exit code, when it has ended.
    pub fn wait(&self) -> Option<i32> {
        self.outer.lock().unwrap().wait().unwrap().code()
    }

    /// Waits until nothing of it is left.
    fn end(&self) {
        self.kill();
        self.outer.lock().unwrap().wait().unwrap();
        if let Some(freezer) = self.freezer.lock().unwrap().take() {
            freezer.remove().unwrap();
        }
        self.remove_groups();
    }

    /// A real machine's control groups end with it; those of a killed process in a pid namespace of its own are nobody's.
    fn remove_groups(&self) {
        let own = format!("agentd.{}.", self.namespace);
        for group in inventory::groups() {
            while group.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)) {
                match std::fs::remove_dir(&group) {
                    // The kernel may take a moment to see that the last process is gone.
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => std::thread::yield_now(),
                    _ => break,
                }
            }
        }
    }
}

fn children(of: i32) -> Vec<i32> {
    // One that has ended has none.
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
        // All others in its namespace end with its first process.
        rustix::process::pidfd_send_signal(&self.init.1, Signal::KILL).ok();
        // With version 1 of cgroups, what is stopped does not even die.
        if let Some(freezer) = &*self.freezer.lock().unwrap() {
            freezer.resume().unwrap();
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
        freezer.as_ref().unwrap().stop(|| tree(root))?;
        Ok(())
    }

    async fn resume(&self) -> Result<(), IsolationError> {
        self.freezer.lock().unwrap().as_ref().map_or(Ok(()), Freezer::resume)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Who a machine is. Its clock is the host's, and right.
pub fn identity(name: &str) -> Identity {
    Identity { realtime_ns: None, ..Identity::new(name).unwrap() }
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

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.create_sandbox(SandboxSpec::default()).await?.destroy().await
    }
}

/// Makes a sandbox in a machine that is shown nothing of the host: what is granted is copied.
pub async fn open_with_copies(
    id: SandboxId,
    machine: &Arc<Process>,
    socket: &Path,
    spec: SandboxSpec,
) -> Result<Arc<GuestSandbox>, IsolationError> {
    let connect = async || tokio::net::UnixStream::connect(socket).await.unwrap();
    let copies = Copies::plan(&spec.grants, &machine.place.path().join("machine/copies"), MOST_COPIED).await?;
    for number in 0..copies.as_ref().map_or(0, |copies| copies.count()) {
        copies.as_ref().unwrap().fill(number, connect().await).await?;
    }
    let grants = copies.as_ref().map(|copies| copies.granted()).unwrap_or_default();
    let spec = GuestSpec { spec: SandboxSpec { grants, ..spec }, identity: Some(identity("guest")), copies };
    GuestSandbox::open(id, machine.clone(), connect().await, Attach::New(spec.into())).await
}

/// Puts it into the registry.
pub fn register() {
    agentd_isolation::register_backend_factory(NAME, &[], Arc::new(|_| Ok(Machines::new()))).unwrap();
}
