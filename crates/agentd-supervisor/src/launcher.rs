//! The launcher: a small single-threaded process that creates sandboxes for a library that may have many threads. It removes the
//! remains of every sandbox, even if the library dies.
//!
//! The launcher is the same program, either forked or executed again under [`Role::Launcher`]. The library calls [`start`]; the
//! new process runs [`main`], or continues after the fork.
//!
//! Neither the launcher nor a supervisor writes a log. The launcher has no descriptor of a log, and between `fork` and `exec` a
//! supervisor may call only async-signal-safe functions. Their failures reach a log as messages: the library logs an
//! [`Event::Hello`] with an error, and a [`Report`] of a failure. An order without a report (a sandbox that was dropped) is not
//! logged: reports that the library does not read would fill the launcher's queue.
//!
//! One `poll` waits for orders, for the ends of sandboxes, and for the next attempt at steps that the kernel completes
//! asynchronously (`ending`, `live`). No order waits for another.
//!
//! [`Event::Hello`]: crate::protocol::Event::Hello
//! [`Report`]: crate::protocol::Report

mod ending;
mod environment;
mod first_process;
mod live;
mod prepared;
mod serve;

use crate::{
    channel::{Channel, ChannelError, send},
    confine::ConfineMessage,
    ids::{ChosenIdMap, map_ids},
    plan::SandboxPlan,
    protocol,
    role::{self, Role},
};
use agentd_core::{Control, ControlError, ControlReport, ControlStatus, IsolationError};
use agentd_kernel::{
    cgroup::{Cgroup, Hierarchy},
    idmap::{self, IdLease, IdMap},
    mount,
    namespace::{self, Ids},
    rlimit,
    seccomp::{Program, SeccompPlan},
};
use ending::Ending;
use first_process::FirstProcess;
use live::{Freezing, Live};
use prepared::Prepared;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

/// A launcher that was started.
pub struct StartedLauncher {
    /// The control socket, which sends orders and receives reports.
    pub control: OwnedFd,
    /// The launcher's process (`pidfd_open(2)`).
    pub process: OwnedFd,
}

/// Starts a launcher.
///
/// A program with one thread is forked, which costs a tenth of executing it again. A program with more threads cannot be forked
/// safely, so it is executed again.
///
/// # Errors
/// [`IsolationError::NoRoleHandler`] without a role handler, whatever the number of threads; [`IsolationError::Io`] if the
/// launcher cannot be started.
pub fn start() -> Result<StartedLauncher, IsolationError> {
    role::require_handler()?;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed(errno.into()))?;
    let pid = if single_threaded().map_err(failed)? { fork(theirs).map_err(failed)? } else { execute(theirs)? };
    // If the launcher has already ended and was reaped, there is no process to open.
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    Ok(StartedLauncher { control: ours, process })
}

fn failed(source: io::Error) -> IsolationError {
    IsolationError::Io { context: "start the launcher".to_owned(), source }
}

fn single_threaded() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

fn fork(control: OwnedFd) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so the child may call any function, not only async-signal-safe ones.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            agentd_log::silence();
            environment::forget();
            // SAFETY: integers and constants only. The launcher needs no other descriptor of the program. The values that own
            // these descriptors are never dropped, because the launcher leaves by `_exit`.
            unsafe {
                libc::dup2(control.as_raw_fd(), 0);
                libc::dup2(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY), 1);
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
                rlimit::raise_open_files(None);
                libc::_exit(serve())
            }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

fn execute(control: OwnedFd) -> Result<Pid, IsolationError> {
    let mut command = Role::Launcher.command()?;
    command.args(rlimit::usual_open_files().map(|files| files.to_string()));
    command.stdin(control).stdout(std::process::Stdio::null());
    // The process that reaps this process's children also reaps the launcher; after this process has ended, init does.
    command.spawn().map(|launcher| Pid::from_child(&launcher)).map_err(failed)
}

/// A first process that was started.
struct Started {
    process: FirstProcess,
    /// The id map of the process, if it was written and sent.
    id_map: Option<IdMap>,
    /// The mount namespace of the process. It is opened before the process changes its ids; afterwards only root could open it.
    mounts: Option<OwnedFd>,
}

impl Started {
    /// Opens the mount namespace if the end of the sandbox may not have to wait for the teardown of its mounts.
    fn new(process: FirstProcess, may_end_alone: bool) -> Self {
        // Without this descriptor, the sandbox takes longer to end.
        let mounts = if may_end_alone { namespace::mounts_of(process.pid.as_raw_nonzero().get()).ok() } else { None };
        Self { process, id_map: None, mounts }
    }

    fn pid(&self) -> i32 {
        self.process.pid.as_raw_nonzero().get()
    }
}

/// A process during its confinement.
struct Spawned {
    pid: Pid,
    pidfd: OwnedFd,
    mounts: Option<OwnedFd>,
    lease: Option<IdLease>,
}

struct Launcher {
    hierarchy: Option<Hierarchy>,
    filters: HashMap<SeccompPlan, Program>,
    sandboxes: HashMap<u32, Live>,
    endings: Vec<Ending>,
    /// Sandboxes of which something could not be removed, by id. Each keeps its range of host ids until a later destroy order
    /// removes the rest.
    failed: HashMap<u32, Ending>,
    /// Freeze and thaw orders in progress, by sandbox id.
    freezings: HashMap<u32, Freezing>,
    /// The first process of the next sandbox, if it was ordered.
    prepared: Option<Prepared>,
    /// Encoded reports that the socket has not accepted yet. The launcher never waits until the socket has space. Otherwise it
    /// would deadlock with a library that sends many orders before it reads a report.
    reports: Vec<u8>,
    groups: u32,
    core_note: Option<String>,
}

/// Runs a launcher that was executed, not forked. Its argument is the limit of open files for commands, if the starting process
/// has raised its own limit.
pub fn main() -> i32 {
    rlimit::raise_open_files(std::env::args().nth(1).and_then(|files| files.parse().ok()));
    serve()
}

/// Serves orders until the library closes the socket, then ends and removes all sandboxes. Returns the exit code.
fn serve() -> i32 {
    // SAFETY: `start` made descriptor 0 the control socket, and nothing else in this process owns it.
    let control = unsafe { OwnedFd::from_raw_fd(0) };
    // SAFETY: the name is a NUL-terminated constant.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"agentd-launcher".as_ptr()) };
    default_signals();
    let core_note = rlimit::no_core_dumps();
    // The launcher adopts the orphans of sandboxes without a PID namespace. The call cannot fail (`prctl(2)`).
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok();
    // Ctrl-C in the terminal must reach only the library, which decides how to react. Supervisors stay in the launcher's session,
    // because a new session costs a scheduling group (`sched(7)`, autogroup); each command has its own session anyway.
    // `setsid(2)` fails only for the leader of a process group, which this child process is not.
    rustix::process::setsid().ok();
    let mut launcher = Launcher {
        hierarchy: None,
        filters: HashMap::new(),
        sandboxes: HashMap::new(),
        endings: Vec::new(),
        failed: HashMap::new(),
        freezings: HashMap::new(),
        prepared: None,
        reports: Vec::new(),
        groups: 0,
        core_note,
    };
    if rustix::io::ioctl_fionbio(&control, true).is_err() {
        return 1;
    }
    let mut channel = Channel::new(control, protocol::MAX_REQUEST);
    let ended = loop {
        if let Err(error) = launcher.step(&mut channel) {
            break error;
        }
    };
    launcher.end_all();
    i32::from(!matches!(ended, ChannelError::Closed))
}

/// Resets all signals to their default action, which supervisors and commands inherit. Rust ignores SIGPIPE, and the process that
/// started agentd may have ignored more (`nohup(1)`).
fn default_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed. The two signals that cannot be changed (SIGKILL, SIGSTOP) already have their default
        // action.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // The C library refuses to change the two signals that it reserves. No command fails if they stay ignored.
    agentd_kernel::process::set_reserved_signals(false).ok();
}

impl Launcher {
    /// Creates a sandbox whose supervisor sends its hello over `channel` once it is confined. On failure, nothing of the sandbox
    /// remains.
    fn create(&mut self, id: u32, plan: &SandboxPlan, channel: &OwnedFd) -> Result<(), ControlError> {
        let (mut cgroup, report) = self.group(plan)?;
        match self.spawn(plan, cgroup.as_ref(), report, channel) {
            Ok(Spawned { pid, pidfd, mounts, lease }) => {
                let namespaced = plan.namespaces.enabled;
                let live = Live { pid, pidfd, cgroup, namespaced, freezer: None, _mounts: mounts, _lease: lease };
                self.sandboxes.insert(id, live);
                Ok(())
            }
            Err(error) => {
                if let Some(cgroup) = &mut cgroup {
                    // Only the first error is reported. If the empty cgroup stays, the sweep of a later launcher removes it.
                    cgroup.remove().ok();
                }
                Err(error)
            }
        }
    }

    fn group(&mut self, plan: &SandboxPlan) -> Result<(Option<Cgroup>, Option<ControlReport>), ControlError> {
        if plan.cgroup.is_empty() {
            return Ok((None, None));
        }
        let hierarchy = hierarchy(&mut self.hierarchy);
        self.groups += 1;
        let detail = plan.cgroup.describe();
        match hierarchy.create(&Hierarchy::name(self.groups), &plan.cgroup) {
            Ok(group) => {
                Ok((Some(group), Some(ControlReport { control: Control::Cgroup, status: ControlStatus::Enforced, detail })))
            }
            Err(error) if plan.allow_degraded => {
                Ok((None, Some(ControlReport { control: Control::Cgroup, status: ControlStatus::Missing(error), detail })))
            }
            Err(error) => Err(error),
        }
    }

    fn spawn(
        &mut self,
        plan: &SandboxPlan,
        cgroup: Option<&Cgroup>,
        group: Option<ControlReport>,
        channel: &OwnedFd,
    ) -> Result<Spawned, ControlError> {
        let Started { process, id_map, mounts } = match self.use_prepared(plan, channel) {
            Some(prepared) => prepared,
            None => Started::new(self.start_first(plan, cgroup, group, channel)?, plan.ends_alone()),
        };
        let FirstProcess { pid, pidfd, go } = process;
        let mounts = mounts.filter(|_| plan.ends_alone());
        match admit(plan, pid.as_raw_nonzero().get(), id_map, &go) {
            Ok(lease) => Ok(Spawned { pid, pidfd, mounts, lease }),
            Err(error) => {
                first_process::kill(&pidfd, pid);
                Err(error)
            }
        }
    }
}

/// Returns the hierarchy for cgroups. The first call detects it and removes the cgroups that dead launchers left.
fn hierarchy(known: &mut Option<Hierarchy>) -> &Hierarchy {
    known.get_or_insert_with(|| {
        let hierarchy = Hierarchy::detect();
        hierarchy.sweep();
        hierarchy
    })
}

/// Writes the id maps of the new process and lets the process continue, unless the process already has `id_map`. Then sends the
/// mount trees that the process needs.
fn admit(plan: &SandboxPlan, pid: i32, id_map: Option<IdMap>, go: &OwnedFd) -> Result<Option<IdLease>, ControlError> {
    let privileged = rustix::process::geteuid().is_root();
    let (id_map, lease) = match id_map {
        Some(id_map) => (id_map, None),
        None => {
            let chosen = map_ids(plan, pid, privileged)?;
            send_ids(go, &chosen, privileged)?;
            (chosen.id_map, chosen.lease)
        }
    };
    if plan.namespaces.enabled && privileged {
        let trees = mapped_trees(plan, id_map)?;
        if !trees.is_empty() {
            send_to(go, &ConfineMessage::Trees, &trees.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
        }
    }
    Ok(lease)
}

/// Sends the ids to a new process whose id maps were written.
fn send_ids(go: &OwnedFd, ChosenIdMap { id_map, map, .. }: &ChosenIdMap, privileged: bool) -> Result<(), ControlError> {
    send_to(go, &ConfineMessage::IdMap { id_map: *id_map, privileged, map: map.clone() }, &[])
}

fn send_to(go: &OwnedFd, message: &ConfineMessage, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
    send(go.as_fd(), message, fds).map_err(|e| ControlError::caused_by(Control::Process, "send to the new process", e))
}

/// Clones the mount trees of the layers, the devices and the grants, and id-maps them.
///
/// In a layer, each id maps to the same id of the payload. In a grant, the owner's files appear as the payload's. Grants with the
/// same owner share one user namespace.
fn mapped_trees(plan: &SandboxPlan, id_map: IdMap) -> Result<Vec<OwnedFd>, ControlError> {
    let shown = (id_map.host_uid, id_map.host_gid);
    if plan.namespaces.ids == Ids::Identity {
        // There is nothing to map. The trees are cloned here, because only here can the root's directory be cloned without the
        // mounts below it.
        let mut trees = plan.tree.root().map_or(Ok(Vec::new()), mount::root::clone_stack)?;
        trees.extend(devices(plan, shown)?);
        let grants = plan.tree.grants();
        trees.extend(mount::clone_grants(grants, &mount::open_grants(grants)?)?);
        return Ok(trees);
    }
    let mut trees = Vec::new();
    if let Some(root) = plan.tree.root().filter(|root| root.base.trees() > 0) {
        let map = idmap::mapping((0, 0), shown, id_map.count)?;
        for tree in mount::root::clone_stack(root)? {
            idmap::map(tree.as_fd(), Path::new("a layer of the root"), &map)?;
            trees.push(tree);
        }
    }
    let mut maps: HashMap<(u32, u32), OwnedFd> = HashMap::new();
    trees.extend(devices(plan, shown)?);
    let grants = plan.tree.grants();
    for (grant, tree) in grants.iter().zip(mount::clone_grants(grants, &mount::open_grants(grants)?)?) {
        let map = match maps.entry(grant.owner) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(idmap::mapping(grant.owner, shown, 1)?),
        };
        idmap::map(tree.as_fd(), &grant.path, map)?;
        trees.push(tree);
    }
    Ok(trees)
}

/// Creates the mount tree of the devices, if the plan has any.
fn devices(plan: &SandboxPlan, owner: (u32, u32)) -> Result<Option<OwnedFd>, ControlError> {
    let devices = plan.tree.root().map(|root| &root.devices).filter(|devices| !devices.is_empty());
    devices.map(|devices| mount::device::own_nodes(devices, owner)).transpose()
}
