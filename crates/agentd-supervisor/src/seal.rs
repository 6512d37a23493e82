//! What a sandbox's first process does before anything foreign runs: each layer of the plan, in an order in which no step needs
//! what an earlier one gave away. Then it serves.

use crate::{
    channel::{Channel, send},
    plan::{SandboxPlan, Tree},
    protocol::{self, Event},
    serve::{self, Supervisor},
};
use agentd_core::{Layer, LayerError, LayerReport, LayerStatus, Network};
use agentd_kernel::{
    cgroup::{Cgroup, Watch},
    idmap::{self, Identity},
    landlock,
    mount::{self, device::Devices},
    namespace, privileges, seccomp,
};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

/// What the launcher tells the new process while that seals itself.
#[derive(Debug, Serialize, Deserialize)]
pub enum Go {
    /// The id maps are written.
    Identity {
        /// Who the payload is.
        identity: Identity,
        /// Whether the launcher is root.
        privileged: bool,
        /// How the map stands, and what it is in words.
        map: (LayerStatus, String),
    },
    /// The descriptors beside it are the id-mapped trees of the layers, of the devices, where there are any, and of the grants, in order. Comes only from a launcher that is root, and after the
    /// first: making them takes as long as the view they are attached to.
    Trees,
}

/// What the new process inherits from the launcher.
pub struct Inherited<'a> {
    /// What to become.
    pub plan: &'a SandboxPlan,
    /// The sandbox's group.
    pub cgroup: Option<&'a Cgroup>,
    /// What became of that.
    pub group: Option<LayerReport>,
    /// What the library will watch the group by.
    pub watches: Vec<Watch>,
    /// The compiled filter.
    pub filter: Option<&'a seccomp::Program>,
    /// What of core dumps is left open; see [`agentd_kernel::rlimit::no_core_dumps`].
    pub core_note: Option<&'a String>,
    /// The channel to the library.
    pub channel: &'a OwnedFd,
    /// Where [`Go`] comes from.
    pub go: OwnedFd,
}

/// Runs the new process to its end.
pub fn run(inherited: Inherited<'_>) -> ! {
    let watch_processes = inherited.plan.process_rlimit.is_some();
    let namespaced = inherited.plan.namespaces.enabled;
    let mut layers: Vec<LayerReport> = inherited.group.iter().cloned().collect();
    let sealed = seal(&inherited, &mut layers);
    let say = |layers, watches, owner, fds: &[BorrowedFd<'_>]| {
        send(inherited.channel.as_fd(), &Event::Hello { version: protocol::VERSION, layers, watches, owner }, fds)
    };
    let Sealed { signals, own, owner } = match sealed {
        Ok(sealed) => sealed,
        Err(error) => {
            // The library hears why, or is gone and needs not.
            say(Err(error), Vec::new(), None, &[]).ok();
            exit(1);
        }
    };
    let kinds = inherited.watches.iter().map(|w| w.kind).collect();
    let fds: Vec<BorrowedFd<'_>> =
        std::iter::once(&own).chain(inherited.watches.iter().map(|w| &w.fd)).map(AsFd::as_fd).collect();
    if say(Ok(layers), kinds, owner, &fds).is_err() {
        exit(1);
    }
    drop((own, inherited.watches));
    let channel = match rustix::io::fcntl_dupfd_cloexec(inherited.channel, 3) {
        Ok(channel) => Channel::new(channel, protocol::MAX_REQUEST),
        Err(_) => exit(1),
    };
    serve::serve(Supervisor { channel, signals, namespaced, watch_processes });
    exit(0)
}

fn exit(code: i32) -> ! {
    // SAFETY: this process is a fork of the launcher: it must leave without running what the launcher registered for its exit.
    unsafe { libc::_exit(code) }
}

/// What a sealed supervisor serves with.
struct Sealed {
    /// What it waits for signals by.
    signals: OwnedFd,
    /// A pidfd of its own.
    own: OwnedFd,
    /// Host ids that pipes must belong to for commands to open them by name.
    owner: Option<(u32, u32)>,
}

fn seal(inherited: &Inherited<'_>, layers: &mut Vec<LayerReport>) -> Result<Sealed, LayerError> {
    let plan = inherited.plan;
    let process = |call: &str, errno: rustix::io::Errno| LayerError::new(Layer::Process, call, Some(errno.raw_os_error()));
    // First of all, because it takes longest.
    let network = (plan.namespaces.enabled && plan.namespaces.network == Network::Off).then(namespace::Beside::start);
    let signals = signals(plan.namespaces.enabled)?;
    if !plan.namespaces.enabled {
        // Process 1 of a pid namespace adopts its orphans anyway.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| process("become a subreaper", e))?;
    }
    if let Some(cgroup) = inherited.cgroup {
        cgroup.join()?;
    }
    let mut record = Record { layers, degrade: plan.allow_degraded };
    // What needs no ids is done while the launcher writes the id maps.
    if plan.namespaces.enabled {
        record.layer(Layer::Namespaces, || {
            namespace::furnish()?;
            Ok((LayerStatus::Enforced, plan.namespaces.describe()))
        })?;
    }
    let mut go = Channel::new(inherited.go.try_clone().map_err(|e| io("dup", &e))?, protocol::MAX_EVENT);
    let (Go::Identity { identity, privileged, map }, _) = hear(&mut go)? else { return Err(out_of_order()) };

    if plan.namespaces.enabled {
        idmap::assume(identity, privileged)?;
        let (status, detail) = map;
        record.layers.push(LayerReport { layer: Layer::Idmap, status, detail });
    }
    let owner = (plan.namespaces.enabled && privileged).then_some((identity.host_uid, identity.host_gid));
    let fallback = if plan.allow_degraded && plan.namespaces.enabled { Some(mount::Fallback::keep()?) } else { None };
    // Id-mapped trees come from a launcher that is root, where there is anything to map.
    let mapped = privileged
        && (plan.tree.root().is_some_and(|root| root.base.trees() > 0 || !root.devices.is_empty())
            || !plan.tree.grants().is_empty());
    match &plan.tree {
        Tree::Host => {}
        // Its payload is root inside and keeps capabilities, which only a root of its own makes harmless: there is no less of it.
        Tree::Root(root) => {
            let has_devices = !root.devices.is_empty();
            let (stack, devices, grants) = if mapped {
                let mut trees = trees(&mut go)?.into_iter();
                let stack = trees.by_ref().take(root.base.trees()).collect();
                let devices = if has_devices { trees.next().map(Devices::Own) } else { None };
                (stack, devices, trees.collect())
            } else {
                let devices = if has_devices { Some(Devices::callers(&root.devices)?) } else { None };
                (mount::root::clone_stack(root)?, devices, mount::clone_grants(&root.grants)?)
            };
            let notes = mount::root::build(root, stack, devices)?.enter(grants)?;
            let (status, detail) = noted(notes, root.describe());
            record.layers.push(LayerReport { layer: Layer::Mounts, status, detail });
        }
        Tree::View(view) => record.layer(Layer::Mounts, || {
            let notes = if mapped {
                let built = mount::build(view)?;
                built.attach(trees(&mut go)?)?
            } else {
                let grants = mount::clone_grants(&view.grants)?;
                mount::build(view)?.attach(grants)?
            };
            Ok(noted(notes, format!("{} masks, {} grants", view.masks.len(), view.grants.len())))
        })?,
    }
    drop(go);
    let has_view = !record.layers.iter().any(|l| l.layer == Layer::Mounts && matches!(l.status, LayerStatus::Missing(_)));
    if let Some(fallback) = fallback.filter(|_| !has_view) {
        fallback.restore()?;
    }
    // What can be done before the network is there.
    if plan.namespaces.enabled {
        privileges::limit_bounding_set(plan.capabilities)?;
    }
    privileges::own_keyring()?;
    let landlock = plan.landlock.as_ref().map(|rules| match &plan.tree {
        Tree::View(view) if !has_view => {
            let private = mount::SCRATCH.map(Path::new);
            let private: Vec<&Path> = private.into_iter().chain([Path::new("/dev"), view.home.as_path()]).collect();
            landlock::prepare(&rules.without_view(&private))
        }
        _ => landlock::prepare(rules),
    });
    if let Some(network) = network {
        record.layer(Layer::Network, || {
            network?.join()?;
            Ok((LayerStatus::Enforced, "loopback only".to_owned()))
        })?;
    }
    // After the change of ids, which clears it.
    privileges::die_with_parent(if plan.namespaces.enabled { libc::SIGKILL } else { libc::SIGTERM })?;
    if plan.namespaces.enabled {
        privileges::drop_capabilities(plan.capabilities)?;
    }
    privileges::harden()?;
    if plan.namespaces.enabled {
        record.enforced(Layer::Privileges, plan.capabilities.describe());
    }
    if let Some(limit) = plan.process_rlimit {
        rustix::process::setrlimit(
            rustix::process::Resource::Nproc,
            rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) },
        )
        .map_err(|e| LayerError::new(Layer::Rlimits, format!("set RLIMIT_NPROC to {limit}"), Some(e.raw_os_error())))?;
    }
    let notes: Vec<String> = plan.rlimit_notes.iter().chain(inherited.core_note).cloned().collect();
    if !notes.is_empty() {
        let status = LayerStatus::Partial(notes.join("; "));
        record.layers.push(LayerReport { layer: Layer::Rlimits, status, detail: String::new() });
    }
    if let Some(prepared) = landlock {
        record.layer(Layer::Landlock, || prepared?.enforce())?;
    }
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(|e| process("pidfd_open", e))?;
    let watches = inherited.watches.iter().map(|w| w.fd.as_raw_fd());
    close_others(watches.chain([inherited.channel.as_raw_fd(), signals.as_raw_fd(), own.as_raw_fd()]).collect())?;
    if let Some(filter) = inherited.filter {
        record.layer(Layer::Seccomp, || {
            seccomp::apply(filter)?;
            Ok((LayerStatus::Enforced, format!("{} instructions", filter.instructions())))
        })?;
    }
    Ok(Sealed { signals, own, owner })
}

fn io(call: &str, error: &std::io::Error) -> LayerError {
    LayerError::new(Layer::Process, call, error.raw_os_error())
}

/// How a layer stands that was applied with `notes`.
fn noted(notes: Vec<String>, detail: String) -> (LayerStatus, String) {
    if notes.is_empty() { (LayerStatus::Enforced, detail) } else { (LayerStatus::Partial(notes.join("; ")), detail) }
}

fn hear(go: &mut Channel) -> Result<(Go, Vec<OwnedFd>), LayerError> {
    go.receive().map_err(|e| LayerError::new(Layer::Process, format!("hear from the launcher: {e}"), None))
}

/// The id-mapped trees, when they are made.
fn trees(go: &mut Channel) -> Result<Vec<OwnedFd>, LayerError> {
    let (Go::Trees, trees) = hear(go)? else { return Err(out_of_order()) };
    Ok(trees)
}

fn out_of_order() -> LayerError {
    LayerError::new(Layer::Process, "hear from the launcher: a message out of order", None)
}

/// What became of each layer so far.
struct Record<'a> {
    layers: &'a mut Vec<LayerReport>,
    degrade: bool,
}

impl Record<'_> {
    fn enforced(&mut self, layer: Layer, detail: String) {
        self.layers.push(LayerReport { layer, status: LayerStatus::Enforced, detail });
    }

    /// Applies one layer. Its failure ends the sandbox, unless the caller accepted degraded isolation.
    fn layer(
        &mut self,
        layer: Layer,
        apply: impl FnOnce() -> Result<(LayerStatus, String), LayerError>,
    ) -> Result<(), LayerError> {
        match apply() {
            Ok((status, detail)) => self.layers.push(LayerReport { layer, status, detail }),
            Err(error) if self.degrade => {
                self.layers.push(LayerReport { layer, status: LayerStatus::Missing(error), detail: String::new() });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// SIGCHLD becomes readable instead of being delivered (`signalfd(2)`). So does SIGTERM for a supervisor without a pid namespace, by
/// which its launcher asks it to end. Process 1 of a namespace takes no signal from anyone inside (`pid_namespaces(7)`), as long as it
/// asks for none.
fn signals(namespaced: bool) -> Result<OwnedFd, LayerError> {
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
        return Err(io("signalfd", &std::io::Error::last_os_error()));
    }
    // SAFETY: signalfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor above 2 but `keep`, whatever the launcher had open; 0 to 2 are `/dev/null`.
fn close_others(mut keep: Vec<i32>) -> Result<(), LayerError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LayerError::new(Layer::Process, "open /dev/null", Some(e.raw_os_error())))?;
    for target in 0..=2 {
        // SAFETY: integers only; descriptors 0 to 2 are owned by nobody in this process.
        if unsafe { libc::dup2(null.as_raw_fd(), target) } < 0 {
            return Err(io("dup2", &std::io::Error::last_os_error()));
        }
    }
    drop(null);
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([i32::MAX]) {
        if first < fd {
            let last = if fd == i32::MAX { u32::MAX } else { (fd - 1).unsigned_abs() };
            // SAFETY: integers only. The descriptors closed belong to values of the launcher's that this process never drops,
            // because it leaves by `_exit`.
            if unsafe { libc::syscall(libc::SYS_close_range, first.unsigned_abs(), last, 0) } < 0 {
                return Err(io("close_range", &std::io::Error::last_os_error()));
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}
