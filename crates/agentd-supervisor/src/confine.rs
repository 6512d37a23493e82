//! Confinement of a sandbox's first process, before any foreign code runs.
//!
//! [`run`] applies every control of the plan, in an order in which no step needs a right that an earlier step dropped. The
//! process then becomes the supervisor and serves requests ([`serve`]).

use crate::{
    channel::{Channel, send},
    listener,
    oom::OomScore,
    plan::{SandboxPlan, Tree},
    protocol::{self, Event},
    serve::{self, Supervisor},
    shorten,
};
use agentd_core::{Control, ControlError, ControlReport, ControlStatus, Network};
use agentd_kernel::{
    affinity,
    cgroup::{Cgroup, Watch},
    idmap::{self, IdMap},
    landlock,
    mount::{self, device::Devices},
    namespace, privileges, seccomp,
};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Messages from the launcher to the new process during confinement.
#[derive(Debug, Serialize, Deserialize)]
pub enum Go {
    /// The launcher has written the id maps.
    IdMap {
        /// User and group ids of the payload.
        id_map: IdMap,
        /// True if the launcher runs as root.
        privileged: bool,
        /// Status of the id map, and its description.
        map: (ControlStatus, String),
    },
    /// The id-mapped mount trees: of the layers, then of the devices if there are any, then of the grants, in order. The trees
    /// are this message's descriptors. Only a launcher that runs as root sends this message. It follows [`Go::IdMap`], because
    /// cloning the trees takes as long as building the view to which they are attached.
    Trees,
}

/// State that the new process inherits from the launcher.
pub struct Inherited<'a> {
    /// The plan of the sandbox.
    pub plan: &'a SandboxPlan,
    /// The cgroup of the sandbox.
    pub cgroup: Option<&'a Cgroup>,
    /// The report on creating that cgroup.
    pub group: Option<ControlReport>,
    /// Descriptors with which the library watches the cgroup.
    pub watches: Vec<Watch>,
    /// The compiled seccomp filter.
    pub filter: Option<&'a seccomp::Program>,
    /// Ways in which core dumps remain possible; see [`agentd_kernel::rlimit::no_core_dumps`].
    pub core_note: Option<&'a String>,
    /// The channel to the library.
    pub channel: &'a OwnedFd,
    /// The launcher's `/proc`.
    pub proc: OwnedFd,
    /// The socket on which [`Go`] messages arrive.
    pub go: OwnedFd,
}

/// Confines the new process and serves requests until the sandbox ends.
pub fn run(inherited: Inherited<'_>) -> ! {
    let watch_processes = inherited.plan.process_rlimit.is_some();
    let namespaced = inherited.plan.namespaces.enabled;
    let mut layers: Vec<ControlReport> = inherited.group.iter().cloned().collect();
    let confined = confine(&inherited, &mut layers);
    let send = |layers, watches, owner, fds: &[BorrowedFd<'_>]| {
        send(inherited.channel.as_fd(), &Event::Hello { version: protocol::VERSION, layers, watches, owner }, fds)
    };
    let Confined { signals, score, own, owner } = match confined {
        Ok(confined) => confined,
        Err(error) => {
            // Sending fails only if the library is gone, and then the error has no receiver.
            send(Err(shorten::error(error)), Vec::new(), None, &[]).ok();
            exit(1);
        }
    };
    let kinds = inherited.watches.iter().map(|w| w.kind).collect();
    let fds: Vec<BorrowedFd<'_>> =
        std::iter::once(&own).chain(inherited.watches.iter().map(|w| &w.fd)).map(AsFd::as_fd).collect();
    if send(Ok(shorten::layers(layers)), kinds, owner, &fds).is_err() {
        exit(1);
    }
    drop((own, inherited.watches));
    let channel = match rustix::io::fcntl_dupfd_cloexec(inherited.channel, 3) {
        Ok(channel) => Channel::new(channel, protocol::MAX_REQUEST),
        Err(_) => exit(1),
    };
    serve::serve(Supervisor { channel, signals, score, namespaced, watch_processes });
    exit(0)
}

fn exit(code: i32) -> ! {
    // SAFETY: `_exit` takes an integer only. This process is a fork of the launcher, so it must not run the launcher's exit
    // handlers.
    unsafe { libc::_exit(code) }
}

/// Resources of a confined supervisor.
struct Confined {
    /// Descriptor that becomes readable when a signal arrives.
    signals: OwnedFd,
    /// The out-of-memory score of the supervisor.
    score: OomScore,
    /// A pidfd of the supervisor itself.
    own: OwnedFd,
    /// Host ids that must own a pipe so that commands can open the pipe by name.
    owner: Option<(u32, u32)>,
}

fn confine(inherited: &Inherited<'_>, layers: &mut Vec<ControlReport>) -> Result<Confined, ControlError> {
    let plan = inherited.plan;
    let process = |call: &str, errno: rustix::io::Errno| ControlError::new(Control::Process, call, Some(errno.raw_os_error()));
    // Started first, because creating the network namespace takes longest.
    let network = (plan.namespaces.enabled && plan.namespaces.network == Network::Off).then(namespace::NetnsBuilder::start);
    let signals = signals(plan.namespaces.enabled)?;
    let score = OomScore::open(inherited.proc.as_fd())?;
    if !plan.namespaces.enabled {
        // Process 1 of a pid namespace adopts the orphans of the namespace anyway.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| process("become a subreaper", e))?;
    }
    if let Some(cgroup) = inherited.cgroup {
        cgroup.join()?;
    }
    let mut record = ControlRecord { layers, degrade: plan.allow_degraded };
    // Do everything that needs no ids while the launcher writes the id maps.
    if plan.namespaces.enabled {
        record.control(Control::Namespaces, || {
            namespace::furnish()?;
            Ok((ControlStatus::Enforced, plan.namespaces.describe()))
        })?;
    }
    let mut go = Channel::new(inherited.go.try_clone().map_err(|e| io_error("dup", &e))?, protocol::MAX_EVENT);
    let (Go::IdMap { id_map, privileged, map }, _) = recv(&mut go)? else { return Err(out_of_order()) };

    if plan.namespaces.enabled {
        idmap::assume(id_map, privileged)?;
        let (status, detail) = map;
        record.layers.push(ControlReport { control: Control::Idmap, status, detail });
    }
    if let Some(quota) = plan.cgroup.cpu_quota.filter(|_| plan.namespaces.enabled) {
        affinity::limit(quota)?;
    }
    // Cloned here, while the host's mount tree is still complete.
    let own = match inherited.cgroup {
        Some(cgroup) if plan.namespaces.enabled => cgroup.trees()?,
        _ => Vec::new(),
    };
    let owner = (plan.namespaces.enabled && privileged).then_some((id_map.host_uid, id_map.host_gid));
    let fallback = if plan.allow_degraded && plan.namespaces.enabled { Some(mount::Fallback::keep()?) } else { None };
    // A launcher that runs as root sends id-mapped trees if the plan has anything to map.
    let mapped = privileged
        && (plan.tree.root().is_some_and(|root| root.base.trees() > 0 || !root.devices.is_empty())
            || !plan.tree.grants().is_empty());
    match &plan.tree {
        Tree::Host => {}
        // This step cannot be degraded: the payload is root inside and keeps capabilities, which are harmless only in a separate
        // root.
        Tree::Root(root) => {
            let has_devices = !root.devices.is_empty();
            let (stack, devices, grants) = if mapped {
                let mut trees = trees(&mut go)?.into_iter();
                let stack = trees.by_ref().take(root.base.trees()).collect();
                let devices = if has_devices { trees.next().map(Devices::Own) } else { None };
                (stack, devices, trees.collect())
            } else {
                let devices = if has_devices { Some(Devices::callers(&root.devices)?) } else { None };
                (mount::root::clone_stack(root)?, devices, mount::clone_grants(&root.grants, &mount::open_grants(&root.grants)?)?)
            };
            let notes = mount::root::build(root, stack, devices, own)?.enter(grants)?;
            let (status, detail) = noted(notes, root.describe());
            record.layers.push(ControlReport { control: Control::Mounts, status, detail });
        }
        Tree::View(view) => {
            // A grant whose path now leads elsewhere is not a missing layer: it ends the sandbox even if degraded isolation is
            // allowed.
            let opened = if mapped { Vec::new() } else { mount::open_grants(&view.grants)? };
            record.control(Control::Mounts, || {
                let notes = if mapped {
                    let built = mount::build(view, own)?;
                    built.attach(trees(&mut go)?)?
                } else {
                    let grants = mount::clone_grants(&view.grants, &opened)?;
                    mount::build(view, own)?.attach(grants)?
                };
                Ok(noted(notes, format!("{} masks, {} grants", view.masks.len(), view.grants.len())))
            })?;
        }
    }
    drop(go);
    let has_view = !record.layers.iter().any(|l| l.control == Control::Mounts && matches!(l.status, ControlStatus::Missing(_)));
    if let Some(fallback) = fallback.filter(|_| !has_view) {
        fallback.restore()?;
    }
    // Do everything that does not need the network namespace first, because its creation may still be running.
    if plan.namespaces.enabled {
        privileges::limit_bounding_set(plan.capabilities)?;
    }
    privileges::own_keyring()?;
    let landlock = plan.landlock.as_ref().map(|rules| match &plan.tree {
        Tree::View(view) if !has_view => landlock::prepare(&rules.without_view(&view.private())),
        _ => landlock::prepare(rules),
    });
    if let Some(network) = network {
        record.control(Control::Network, || {
            network?.join()?;
            Ok((ControlStatus::Enforced, "loopback only".to_owned()))
        })?;
    }
    // Set after the change of ids, because that change clears the parent-death signal.
    privileges::die_with_parent(if plan.namespaces.enabled { libc::SIGKILL } else { libc::SIGTERM })?;
    if plan.namespaces.enabled {
        privileges::drop_capabilities(plan.capabilities)?;
    }
    privileges::harden()?;
    if plan.namespaces.enabled {
        record.enforced(Control::Privileges, plan.capabilities.describe());
    }
    if let Some(limit) = plan.process_rlimit {
        rustix::process::setrlimit(
            rustix::process::Resource::Nproc,
            rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) },
        )
        .map_err(|e| ControlError::new(Control::Rlimits, format!("set RLIMIT_NPROC to {limit}"), Some(e.raw_os_error())))?;
    }
    let notes: Vec<String> = plan.rlimit_notes.iter().chain(inherited.core_note).cloned().collect();
    if !notes.is_empty() {
        let status = ControlStatus::Partial(notes.join("; "));
        record.layers.push(ControlReport { control: Control::Rlimits, status, detail: String::new() });
    }
    if let Some(prepared) = landlock {
        record.control(Control::Landlock, || prepared?.enforce())?;
    }
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(|e| process("pidfd_open", e))?;
    let watches = inherited.watches.iter().map(|w| w.fd.as_raw_fd());
    let kept = [inherited.channel.as_raw_fd(), signals.as_raw_fd(), score.descriptor(), own.as_raw_fd()];
    close_others(watches.chain(kept).collect())?;
    if let Some(filter) = inherited.filter {
        // Without a view, `/proc` is the host's.
        let context = listener::Context { kept: plan.capabilities, own_proc: has_view };
        record.control(Control::Seccomp, || {
            let thread = listener::start(context)?;
            if let Some(listener) = seccomp::apply_with_listener(filter)? {
                // Sending fails only if the thread has ended.
                thread.send(listener).ok();
            }
            Ok((ControlStatus::Enforced, format!("{} instructions", filter.instructions())))
        })?;
    }
    Ok(Confined { signals, score, own, owner })
}

fn io_error(call: &str, error: &std::io::Error) -> ControlError {
    ControlError::new(Control::Process, call, error.raw_os_error())
}

/// Returns the status of a layer that was applied with `notes`.
fn noted(notes: Vec<String>, detail: String) -> (ControlStatus, String) {
    if notes.is_empty() { (ControlStatus::Enforced, detail) } else { (ControlStatus::Partial(notes.join("; ")), detail) }
}

fn recv(go: &mut Channel) -> Result<(Go, Vec<OwnedFd>), ControlError> {
    go.receive().map_err(|e| ControlError::new(Control::Process, format!("receive from the launcher: {e}"), None))
}

/// Waits for the launcher to send the id-mapped trees.
fn trees(go: &mut Channel) -> Result<Vec<OwnedFd>, ControlError> {
    let (Go::Trees, trees) = recv(go)? else { return Err(out_of_order()) };
    Ok(trees)
}

fn out_of_order() -> ControlError {
    ControlError::new(Control::Process, "receive from the launcher: a message out of order", None)
}

/// The reports of the layers applied so far.
struct ControlRecord<'a> {
    layers: &'a mut Vec<ControlReport>,
    degrade: bool,
}

impl ControlRecord<'_> {
    fn enforced(&mut self, control: Control, detail: String) {
        self.layers.push(ControlReport { control, status: ControlStatus::Enforced, detail });
    }

    /// Applies one layer. A failure ends the sandbox, unless the caller accepted degraded isolation. An error of
    /// [`Control::Grants`] always ends the sandbox, whichever layer returns it: it reports a replaced object, not a missing
    /// feature of this machine.
    fn control(
        &mut self,
        control: Control,
        apply: impl FnOnce() -> Result<(ControlStatus, String), ControlError>,
    ) -> Result<(), ControlError> {
        match apply() {
            Ok((status, detail)) => self.layers.push(ControlReport { control, status, detail }),
            Err(error) if self.degrade && error.control != Control::Grants => {
                self.layers.push(ControlReport { control, status: ControlStatus::Missing(error), detail: String::new() });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Blocks SIGCHLD and returns a descriptor that becomes readable when SIGCHLD arrives (`signalfd(2)`).
///
/// Without a pid namespace, the descriptor also reports SIGTERM, with which the launcher asks the supervisor to end. Process 1 of
/// a pid namespace receives no signal from inside the namespace for which it has installed no handler (`pid_namespaces(7)`).
fn signals(namespaced: bool) -> Result<OwnedFd, ControlError> {
    // SAFETY: an all-zero set is initialised by sigemptyset before use; all pointers are to it.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if !namespaced {
            libc::sigaddset(&raw mut set, libc::SIGTERM);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io_error("signalfd", &std::io::Error::last_os_error()));
    }
    // SAFETY: signalfd returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor above 2 except `keep`, whatever the launcher had open. Descriptors 0 to 2 become `/dev/null`.
fn close_others(mut keep: Vec<i32>) -> Result<(), ControlError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| ControlError::new(Control::Process, "open /dev/null", Some(e.raw_os_error())))?;
    for target in 0..=2 {
        // SAFETY: integers only; no value in this process owns descriptors 0 to 2.
        if unsafe { libc::dup2(null.as_raw_fd(), target) } < 0 {
            return Err(io_error("dup2", &std::io::Error::last_os_error()));
        }
    }
    drop(null);
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([i32::MAX]) {
        if first < fd {
            let last = if fd == i32::MAX { u32::MAX } else { (fd - 1).unsigned_abs() };
            // SAFETY: integers only. The closed descriptors belong to values of the launcher that this process never drops,
            // because it leaves by `_exit`.
            if unsafe { libc::syscall(libc::SYS_close_range, first.unsigned_abs(), last, 0) } < 0 {
                return Err(io_error("close_range", &std::io::Error::last_os_error()));
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degradable_sandbox_fails_on_replaced_grant_but_not_on_missing_control() {
        let mut layers = Vec::new();
        let mut record = ControlRecord { layers: &mut layers, degrade: true };
        for control in [Control::Landlock, Control::Mounts] {
            let replaced = ControlError::new(Control::Grants, "open /grant", None);
            assert_eq!(record.control(control, || Err(replaced.clone())), Err(replaced));
            record.control(control, || Err(ControlError::new(control, "call", None))).unwrap();
        }
        assert_eq!(layers.len(), 2);
    }
}
