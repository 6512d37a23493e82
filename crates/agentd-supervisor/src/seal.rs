//! What a sandbox's first process does before anything foreign runs: each layer of the plan, in an order in which no step needs
//! what an earlier one gave away. Then it serves.

use crate::{
    channel::Channel,
    plan::SandboxPlan,
    protocol::{self, Event},
    serve::{self, Supervisor},
};
use agentd_core::{Layer, LayerError, LayerReport, LayerStatus};
use agentd_kernel::{cgroup::Cgroup, idmap, landlock, mount, namespace, privileges, seccomp};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What the launcher tells the new process once its id maps are written; the descriptors beside it are id-mapped trees.
#[derive(Debug, Serialize, Deserialize)]
pub struct Go {
    /// User and group id inside, and whether the launcher is root.
    pub identity: (u32, u32, bool),
}

/// What the new process inherits from the launcher.
pub struct Inherited<'a> {
    /// What to become.
    pub plan: &'a SandboxPlan,
    /// The sandbox's group.
    pub cgroup: Option<&'a Cgroup>,
    /// The compiled filter.
    pub filter: Option<&'a seccomp::Program>,
    /// The channel to the library.
    pub channel: OwnedFd,
    /// Where [`Go`] comes from.
    pub go: OwnedFd,
}

/// Runs the new process to its end.
pub fn run(inherited: Inherited<'_>) -> ! {
    let watch_processes = inherited.plan.process_rlimit.is_some();
    let namespaced = inherited.plan.namespaces.enabled;
    let mut layers = Vec::new();
    let sealed = seal(&inherited, &mut layers);
    let channel = Channel::new(inherited.channel, protocol::MAX_REQUEST);
    let signals = match sealed {
        Ok(signals) => signals,
        Err(error) => {
            // The library hears why, or is gone and needs not.
            channel.send(&Event::Hello { version: protocol::VERSION, layers: Err(error) }, &[]).ok();
            exit(1);
        }
    };
    if channel.send(&Event::Hello { version: protocol::VERSION, layers: Ok(layers) }, &[]).is_err() {
        exit(1);
    }
    serve::serve(Supervisor { channel, signals, namespaced, watch_processes });
    exit(0)
}

fn exit(code: i32) -> ! {
    // SAFETY: this process is a fork of the launcher: it must leave without running what the launcher registered for its exit.
    unsafe { libc::_exit(code) }
}

fn seal(inherited: &Inherited<'_>, layers: &mut Vec<LayerReport>) -> Result<OwnedFd, LayerError> {
    let plan = inherited.plan;
    let process = |call: &str, errno: rustix::io::Errno| LayerError::new(Layer::Process, call, Some(errno.raw_os_error()));
    let signals = signals()?;
    rustix::process::setsid().map_err(|e| process("setsid", e))?;
    if !plan.namespaces.enabled {
        // Process 1 of a pid namespace adopts its orphans anyway.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| process("become a subreaper", e))?;
    }
    if let Some(cgroup) = inherited.cgroup {
        cgroup.join()?;
    }
    let mut record = Record { layers, degrade: plan.allow_degraded };
    // What needs no ids is done while the launcher writes the id maps.
    let mut network = None;
    if plan.namespaces.enabled {
        if plan.namespaces.network == agentd_core::Network::Off {
            network = Some(namespace::Beside::start()?);
        }
        record.layer(Layer::Namespaces, || {
            namespace::furnish()?;
            Ok((LayerStatus::Enforced, plan.namespaces.describe()))
        })?;
    }
    let mut go = Channel::new(inherited.go.try_clone().map_err(|e| io("dup", &e))?, protocol::MAX_EVENT);
    let (Go { identity: (uid, gid, privileged) }, trees) =
        go.receive().map_err(|e| LayerError::new(Layer::Process, format!("hear from the launcher: {e}"), None))?;
    drop(go);

    if plan.namespaces.enabled {
        let identity = idmap::Identity { uid, gid, host_uid: uid, host_gid: gid };
        idmap::assume(identity, privileged)?;
        let host = if privileged { "own host uid" } else { "the caller's host uid" };
        record.enforced(Layer::Idmap, format!("uid {uid} inside, {host}"));
    }
    if plan.view.enabled {
        record.layer(Layer::Mounts, || {
            let notes = mount::apply(&plan.view, trees)?;
            let detail = format!("{} masks, {} grants", plan.view.masks.len(), plan.view.grants.len());
            Ok(if notes.is_empty() { (LayerStatus::Enforced, detail) } else { (LayerStatus::Partial(notes.join("; ")), detail) })
        })?;
    }
    if let Some(network) = network {
        record.layer(Layer::Network, || {
            network.join()?;
            Ok((LayerStatus::Enforced, "loopback only".to_owned()))
        })?;
    }
    // After the change of ids, which clears it.
    privileges::die_with_parent(if plan.namespaces.enabled { libc::SIGKILL } else { libc::SIGTERM })?;
    privileges::drop_all(plan.namespaces.enabled)?;
    if plan.namespaces.enabled {
        record.enforced(Layer::Privileges, privileges::DESCRIPTION.to_owned());
    }
    close_others(&[inherited.channel.as_raw_fd(), signals.as_raw_fd()])?;
    if let Some(limit) = plan.process_rlimit {
        rustix::process::setrlimit(
            rustix::process::Resource::Nproc,
            rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) },
        )
        .map_err(|e| LayerError::new(Layer::Rlimits, format!("set RLIMIT_NPROC to {limit}"), Some(e.raw_os_error())))?;
    }
    if plan.landlock.enabled {
        record.layer(Layer::Landlock, || landlock::apply(&plan.landlock))?;
    }
    if let Some(filter) = inherited.filter {
        record.layer(Layer::Seccomp, || {
            seccomp::apply(filter)?;
            Ok((LayerStatus::Enforced, format!("{} instructions", filter.instructions())))
        })?;
    }
    Ok(signals)
}

fn io(call: &str, error: &std::io::Error) -> LayerError {
    LayerError::new(Layer::Process, call, error.raw_os_error())
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

/// SIGCHLD and SIGTERM become readable instead of being delivered (`signalfd(2)`).
fn signals() -> Result<OwnedFd, LayerError> {
    // SAFETY: an all-zero set is initialised by sigemptyset before use; all pointers are to it.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
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
fn close_others(keep: &[i32]) -> Result<(), LayerError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LayerError::new(Layer::Process, "open /dev/null", Some(e.raw_os_error())))?;
    for target in 0..=2 {
        // SAFETY: integers only; descriptors 0 to 2 are owned by nobody in this process.
        if unsafe { libc::dup2(null.as_raw_fd(), target) } < 0 {
            return Err(io("dup2", &std::io::Error::last_os_error()));
        }
    }
    drop(null);
    let mut keep: Vec<i32> = keep.to_vec();
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
