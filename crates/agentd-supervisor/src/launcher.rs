//! The launcher: a small single-threaded process that makes sandboxes for a library that may have many threads, and removes what
//! is left of them whatever happens to that library.
//!
//! It is this same program, executed anew from a sealed copy in memory (CVE-2019-5736: what runs in a sandbox must not be able
//! to reach and overwrite the host's binary). [`start`] is called by the library, [`main`] is what then runs.

use crate::{
    channel::{Channel, ChannelError, send},
    ids::{Mapped, map_ids},
    plan::SandboxPlan,
    protocol::{self, Event, Order, Report},
    seal::{self, Go, Inherited},
};
use agentd_core::{Layer, LayerError, LayerReport, LayerStatus};
use agentd_kernel::{
    cgroup::{Cgroup, Freezer, Hierarchy},
    idmap::{self, Claim, Identity},
    mount,
    namespace::{self, Cloned, Ids},
    rlimit,
    seccomp::{Program, SeccompPlan},
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Pid, Signal, WaitOptions},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// `argv[0]` of a launcher. Its control socket is standard input.
pub const ROLE: &str = "agentd-launcher";

/// Starts a launcher; gives its control socket: orders out, reports in.
///
/// A program with one thread is its own best launcher: a fork of it, which costs a tenth of executing it anew. One with more
/// threads can't be forked safely; it is executed anew, from a sealed copy, and must have called `take_role` at the head of `main`.
pub fn start() -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if single_threaded()? {
        fork(theirs)?
    } else {
        execute(theirs)?
    }
    Ok(ours)
}

fn single_threaded() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

fn fork(control: OwnedFd) -> io::Result<()> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: integers and constants only. Whatever else the program had open, the launcher has not; what it owned is
            // never dropped, because the launcher leaves by `_exit`.
            unsafe {
                libc::dup2(control.as_raw_fd(), 0);
                libc::dup2(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY), 1);
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
                rlimit::raise_open_files(None);
                libc::_exit(serve())
            }
        }
        _ => Ok(()),
    }
}

fn execute(control: OwnedFd) -> io::Result<()> {
    let image = sealed_image()?;
    let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
    command.arg0(ROLE).args(rlimit::usual_open_files().map(|files| files.to_string()));
    command.env_clear().stdin(control).stdout(std::process::Stdio::null());
    // It is reaped by whoever reaps this process's children, or by init after it.
    command.spawn().map(drop)
}

/// A copy of this program in memory that can't be changed any more (`memfd_create(2)`, `F_ADD_SEALS`).
pub fn sealed_image() -> io::Result<OwnedFd> {
    let mut source = File::open("/proc/self/exe")?;
    let image = rustix::fs::memfd_create("agentd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(image);
    io::copy(&mut source, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // Executing needs a descriptor that is not open for writing (`execve(2)`, ETXTBSY).
    Ok(rustix::fs::open(format!("/proc/self/fd/{}", copy.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

struct Live {
    pid: Pid,
    pidfd: OwnedFd,
    cgroup: Option<Cgroup>,
    namespaced: bool,
    /// What stops it, once it has been stopped.
    freezer: Option<Freezer>,
    /// Its mount namespace, where it may outlive the sandbox by a moment.
    mounts: Option<OwnedFd>,
    /// Its range of host ids, given back when it is gone.
    _claim: Option<Claim>,
}

/// A process that is being sealed.
struct Spawned {
    pid: Pid,
    pidfd: OwnedFd,
    mounts: Option<OwnedFd>,
    claim: Option<Claim>,
}

struct Launcher {
    hierarchy: Option<Hierarchy>,
    filters: HashMap<SeccompPlan, Program>,
    sandboxes: HashMap<u32, Live>,
    groups: u32,
    core_note: Option<String>,
}

/// A launcher that was executed anew. Its argument is the limit of open files for commands, when the process that started it has raised
/// its own.
pub fn main() -> i32 {
    rlimit::raise_open_files(std::env::args().nth(1).and_then(|files| files.parse().ok()));
    serve()
}

/// What a launcher does until its library is gone; then everything it made is ended and removed.
fn serve() -> i32 {
    // SAFETY: `start` put the control socket there, and nothing else in this process owns it.
    let control = unsafe { OwnedFd::from_raw_fd(0) };
    // SAFETY: the name is a NUL-terminated constant.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"agentd-launcher".as_ptr()) };
    default_signals();
    let core_note = rlimit::no_core_dumps();
    // Orphans of sandboxes without a pid namespace come here.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok();
    // The terminal's Ctrl-C is for the library, which decides what it means. Supervisors stay in this session: making one costs a
    // scheduling group (`sched(7)`, autogroup), and each of their commands has its own.
    rustix::process::setsid().ok();
    let mut launcher = Launcher { hierarchy: None, filters: HashMap::new(), sandboxes: HashMap::new(), groups: 0, core_note };
    let mut channel = Channel::new(control, protocol::MAX_REQUEST);
    let ended = loop {
        match channel.receive::<Order>() {
            Ok((order, fds)) => {
                if let Err(error) = launcher.handle(&channel, order, fds) {
                    break error;
                }
            }
            Err(error) => break error,
        }
    };
    let ids: Vec<u32> = launcher.sandboxes.keys().copied().collect();
    for id in ids {
        // Nobody is left to be told.
        launcher.destroy(id).ok();
    }
    i32::from(!matches!(ended, ChannelError::Closed))
}

/// Gives all signals their default action, which supervisors and their commands inherit: Rust ignores SIGPIPE, and whoever started
/// agentd may have ignored more (`nohup(1)`).
fn default_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed. What cannot be changed (SIGKILL, SIGSTOP) is the default already.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

impl Launcher {
    fn handle(&mut self, control: &Channel, order: Order, mut fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        match order {
            Order::Create { id, plan } => {
                let channel = fds.pop().ok_or(ChannelError::MissingFds)?;
                if let Err(error) = self.create(id, &plan, &channel) {
                    let hello = Event::Hello { version: protocol::VERSION, layers: Err(error), watches: Vec::new(), owner: None };
                    // Whoever wanted it may have given up.
                    send(channel.as_fd(), &hello, &[]).ok();
                }
                Ok(())
            }
            Order::Destroy { id, report } => {
                let (error, rest) = match self.destroy(id) {
                    Ok(rest) => (None, rest),
                    Err(error) => (Some(error), None),
                };
                let told = if report { control.send(&Report::Destroyed { id, error }, &[]) } else { Ok(()) };
                drop(rest);
                told
            }
            Order::Freeze { id, frozen } => {
                let error = self.freeze(id, frozen).err();
                control.send(&Report::Frozen { id, error }, &[])
            }
        }
    }

    /// Makes a sandbox whose supervisor speaks over `channel`, and says there when it is sealed. When this fails, nothing is left.
    fn create(&mut self, id: u32, plan: &SandboxPlan, channel: &OwnedFd) -> Result<(), LayerError> {
        let (mut cgroup, report) = self.group(plan)?;
        match self.spawn(plan, cgroup.as_ref(), report, channel) {
            Ok(Spawned { pid, pidfd, mounts, claim }) => {
                let namespaced = plan.namespaces.enabled;
                let live = Live { pid, pidfd, cgroup, namespaced, freezer: None, mounts, _claim: claim };
                self.sandboxes.insert(id, live);
                Ok(())
            }
            Err(error) => {
                if let Some(cgroup) = &mut cgroup {
                    // The first error is the one to tell; the group is empty.
                    cgroup.remove().ok();
                }
                Err(error)
            }
        }
    }

    fn group(&mut self, plan: &SandboxPlan) -> Result<(Option<Cgroup>, Option<LayerReport>), LayerError> {
        if plan.cgroup.is_empty() {
            return Ok((None, None));
        }
        let hierarchy = hierarchy(&mut self.hierarchy);
        self.groups += 1;
        let detail = plan.cgroup.describe();
        match hierarchy.create(&Hierarchy::name(self.groups), &plan.cgroup) {
            Ok(group) => Ok((Some(group), Some(LayerReport { layer: Layer::Cgroup, status: LayerStatus::Enforced, detail }))),
            Err(error) if plan.allow_degraded => {
                Ok((None, Some(LayerReport { layer: Layer::Cgroup, status: LayerStatus::Missing(error), detail })))
            }
            Err(error) => Err(error),
        }
    }

    fn spawn(
        &mut self,
        plan: &SandboxPlan,
        cgroup: Option<&Cgroup>,
        group: Option<LayerReport>,
        channel: &OwnedFd,
    ) -> Result<Spawned, LayerError> {
        let watches = cgroup.map_or(Ok(Vec::new()), Cgroup::watches)?;
        let filter = plan.seccomp.map(|wanted| &*self.filters.entry(wanted).or_insert_with(|| wanted.compile()));
        let (go, inner_go) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| LayerError::new(Layer::Process, "socketpair", Some(e.raw_os_error())))?;
        // SAFETY: the launcher is single-threaded: it starts no thread, and its libraries are only those of this crate.
        let cloned = unsafe { namespace::start(plan.namespaces, cgroup.and_then(Cgroup::clone_into)) }?;
        let (pid, pidfd) = match cloned {
            Cloned::Child => {
                drop(go);
                let core_note = self.core_note.as_ref();
                seal::run(Inherited { plan, cgroup, group, watches, filter, core_note, channel, go: inner_go })
            }
            Cloned::Parent(pid, pidfd) => (pid, pidfd),
        };
        drop(inner_go);
        let raw = Pid::from_raw(pid).ok_or_else(|| LayerError::new(Layer::Process, "clone3", None))?;
        // Before it changes its ids, after which only root could. Without it the sandbox takes longer to end.
        let mounts = if plan.ends_alone() { namespace::mounts_of(pid).ok() } else { None };
        match admit(plan, pid, &go) {
            Ok(claim) => Ok(Spawned { pid: raw, pidfd, mounts, claim }),
            Err(error) => {
                kill(&pidfd, raw);
                Err(error)
            }
        }
    }

    fn freeze(&mut self, id: u32, frozen: bool) -> Result<(), LayerError> {
        let gone = || LayerError::new(Layer::Process, "find the sandbox", Some(libc::ESRCH));
        let live = self.sandboxes.get_mut(&id).ok_or_else(gone)?;
        if !frozen {
            return live.freezer.as_ref().map_or(Ok(()), Freezer::resume);
        }
        let freezer = match &mut live.freezer {
            Some(made) => made,
            none => {
                self.groups += 1;
                let name = Hierarchy::name(self.groups);
                // Kept before it is filled: what fails half way is removed with the sandbox.
                none.insert(hierarchy(&mut self.hierarchy).freezer(&name, live.cgroup.as_ref())?)
            }
        };
        let root = live.pid.as_raw_nonzero().get();
        freezer.stop(|| crate::sweep::tree(root, |_| ()))
    }

    /// Ends a sandbox and waits until its processes are gone, and its group. Gives what keeps its mounts, which go when that is dropped: nobody
    /// can reach them any more, and the kernel takes as long to take them apart as the rest takes together.
    fn destroy(&mut self, id: u32) -> Result<Option<OwnedFd>, LayerError> {
        let Some(mut live) = self.sandboxes.remove(&id) else { return Ok(None) };
        if let Some(freezer) = &live.freezer {
            // On version 1, what is stopped does not even die. What cannot be thawed is told by what cannot be removed.
            freezer.resume().ok();
        }
        if live.namespaced {
            kill(&live.pidfd, live.pid);
        } else {
            // It has no namespace that dies with it: it ends its tree itself, and what it leaves is adopted here and ended.
            rustix::process::pidfd_send_signal(&live.pidfd, Signal::TERM).ok();
            rustix::process::waitpid(Some(live.pid), WaitOptions::empty()).ok();
            let keep = self.sandboxes.values().map(|l| l.pid.as_raw_nonzero().get()).collect();
            crate::sweep::kill_orphans(&keep, |_| ());
        }
        let thawed = live.freezer.map_or(Ok(()), Freezer::remove);
        if let Some(cgroup) = &mut live.cgroup {
            cgroup.kill();
            cgroup.remove()?;
        }
        thawed.map(|()| live.mounts)
    }
}

/// Where groups are made; looked up, and cleared of what dead launchers left, at the first use.
fn hierarchy(known: &mut Option<Hierarchy>) -> &Hierarchy {
    known.get_or_insert_with(|| {
        let hierarchy = Hierarchy::detect();
        hierarchy.sweep();
        hierarchy
    })
}

/// Writes the maps of the new process and lets it go on; then makes what it needs last.
fn admit(plan: &SandboxPlan, pid: i32, go: &OwnedFd) -> Result<Option<Claim>, LayerError> {
    let tell = |message: &Go, fds: &[BorrowedFd<'_>]| {
        send(go.as_fd(), message, fds)
            .map_err(|e| LayerError::new(Layer::Process, format!("speak to the new process: {e}"), None))
    };
    let privileged = rustix::process::geteuid().is_root();
    let Mapped { identity, map, claim } = map_ids(plan, pid, privileged)?;
    tell(&Go::Identity { identity, privileged, map }, &[])?;
    if plan.namespaces.enabled && privileged {
        let trees = mapped_trees(plan, identity)?;
        if !trees.is_empty() {
            tell(&Go::Trees, &trees.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
        }
    }
    Ok(claim)
}

/// The trees of the layers, each id of theirs shown as the same of the payload's, of devices, and of the grants, each showing its owner's files as
/// the payload's. One user namespace serves all that are mapped alike.
fn mapped_trees(plan: &SandboxPlan, identity: Identity) -> Result<Vec<OwnedFd>, LayerError> {
    let shown = (identity.host_uid, identity.host_gid);
    if plan.namespaces.ids == Ids::Same {
        // Nothing to map, and the root's directory can be cloned without what is mounted below it only from here.
        let mut trees = plan.tree.root().map_or(Ok(Vec::new()), mount::root::clone_stack)?;
        trees.extend(devices(plan, shown)?);
        trees.extend(mount::clone_grants(plan.tree.grants())?);
        return Ok(trees);
    }
    let mut trees = Vec::new();
    if let Some(root) = plan.tree.root().filter(|root| root.base.trees() > 0) {
        let map = idmap::mapping((0, 0), shown, identity.count)?;
        for tree in mount::root::clone_stack(root)? {
            idmap::map(tree.as_fd(), Path::new("a layer"), &map)?;
            trees.push(tree);
        }
    }
    let mut maps: HashMap<(u32, u32), OwnedFd> = HashMap::new();
    trees.extend(devices(plan, shown)?);
    for grant in plan.tree.grants() {
        let map = match maps.entry(grant.owner) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(idmap::mapping(grant.owner, shown, 1)?),
        };
        trees.push(idmap::mapped_tree(&grant.path, map)?);
    }
    Ok(trees)
}

/// The tree of the devices, where there are any.
fn devices(plan: &SandboxPlan, owner: (u32, u32)) -> Result<Option<OwnedFd>, LayerError> {
    let devices = plan.tree.root().map(|root| &root.devices).filter(|devices| !devices.is_empty());
    devices.map(|devices| mount::device::own_nodes(devices, owner)).transpose()
}

fn kill(pidfd: &OwnedFd, pid: Pid) {
    // It may be gone already, which is what is wanted.
    rustix::process::pidfd_send_signal(pidfd, Signal::KILL).ok();
    rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok();
}
