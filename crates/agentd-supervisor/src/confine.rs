//! Confinement of a sandbox's first process, before any foreign code runs.
//!
//! [`run`] applies every control of the plan, in an order in which no step needs a right that an earlier step dropped. The
//! process then becomes the supervisor and serves requests ([`serve`]).

mod descriptors;
mod early;
mod message;
mod record;
mod tree;

pub use message::ConfineMessage;

use crate::{
    channel::{Channel, send},
    listener,
    oom::OomScore,
    plan::{ExpectedPlan, SandboxPlan, Tree},
    protocol::{self, Event},
    serve::{self, Supervisor},
    shorten,
};
use agentd_core::{Control, ControlError, ControlReport, ControlStatus, NetworkMode};
use agentd_kernel::{
    affinity,
    cgroup::{Cgroup, Watch},
    gateway::{self, GatewaySocket, Prepared},
    idmap, landlock,
    namespace::{self, NamespacePlan, NetnsBuilder},
    privileges, seccomp,
};
use early::Early;
use message::{ConfineChannel, Ids};
use record::ControlRecord;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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
}

/// Confines the new process and serves requests until the sandbox ends. `proc` is the launcher's `/proc`; [`ConfineMessage`]
/// messages arrive on `go`.
pub fn run(inherited: Inherited<'_>, proc: &OwnedFd, go: OwnedFd) -> ! {
    let begun = begin(inherited.plan.namespaces, true, proc, || join_group(&inherited));
    finish(inherited, begun, ConfineChannel::new(go))
}

/// Begins to confine the new process, waits for its plan, and then continues as [`run`].
pub fn run_prepared(expected: ExpectedPlan, core_note: Option<&String>, proc: &OwnedFd, go: OwnedFd) -> ! {
    // The plan may never arrive.
    if privileges::die_with_parent(libc::SIGKILL).is_err() {
        exit(1);
    }
    // In the meantime, the library plans on the other processor.
    let mut begun = begin(expected.namespaces, false, proc, || Ok(()));
    let compiled = expected.seccomp.compile();
    let mut go = ConfineChannel::new(go);
    if let Some(scratch_bytes) = expected.view {
        let Ok(ids) = go.ids() else { exit(1) };
        begun = begun.and_then(|begun| Ok(Begun { early: Some(Early::apply(ids, scratch_bytes)?), ..begun }));
    }
    // Without a plan, there is no channel on which to report the reason: the launcher has ended.
    let Ok((plan, channel)) = go.plan() else { exit(1) };
    let filter = plan.seccomp.map(|wanted| if wanted == expected.seccomp { compiled } else { wanted.compile() });
    let (filter, channel) = (filter.as_ref(), &channel);
    let inherited = Inherited { plan: &plan, cgroup: None, group: None, watches: Vec::new(), filter, core_note, channel };
    finish(inherited, begun, go)
}

fn finish(inherited: Inherited<'_>, begun: Result<Begun, ControlError>, go: ConfineChannel) -> ! {
    let watch_processes = inherited.plan.process_rlimit.is_some();
    let namespaced = inherited.plan.namespaces.enabled;
    let mut controls: Vec<ControlReport> = inherited.group.iter().cloned().collect();
    let confined = begun.and_then(|begun| confine(&inherited, begun, go, &mut controls));
    let send = |controls, watches, sockets, owner, fds: &[BorrowedFd<'_>]| {
        let hello = Event::Hello { version: protocol::VERSION, controls, watches, sockets, owner };
        send(inherited.channel.as_fd(), &hello, fds)
    };
    let Confined { signals, score, own, owner, sockets } = match confined {
        Ok(confined) => confined,
        Err(error) => {
            // Sending fails only if the library is gone, and then the error has no receiver.
            send(Err(shorten::error(error)), Vec::new(), Vec::new(), None, &[]).ok();
            exit(1);
        }
    };
    let kinds = inherited.watches.iter().map(|w| w.kind).collect();
    let purposes = sockets.iter().map(|(purpose, _)| *purpose).collect();
    let watches = inherited.watches.iter().map(|w| &w.fd);
    let fds = std::iter::once(&own).chain(watches).chain(sockets.iter().map(|(_, socket)| socket));
    let fds: Vec<BorrowedFd<'_>> = fds.map(AsFd::as_fd).collect();
    if send(Ok(shorten::controls(controls)), kinds, purposes, owner, &fds).is_err() {
        exit(1);
    }
    drop((own, inherited.watches, sockets));
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
    /// The sockets of the gateway.
    sockets: Vec<(GatewaySocket, OwnedFd)>,
}

/// The results of the steps for which only the namespaces of the plan must be known.
struct Begun {
    /// `None` if the sandbox has no network namespace.
    network: Option<Result<NetnsBuilder, ControlError>>,
    signals: OwnedFd,
    score: OomScore,
    /// The result of preparing the namespaces; `None` if the sandbox has none.
    in_namespaces: Option<Result<(), ControlError>>,
    /// The steps that a prepared process has taken.
    early: Option<Early>,
}

/// Performs the steps for which only the namespaces of the plan must be known. `join` enters the cgroup. `busy` is false if the
/// process then waits for its plan.
fn begin(
    namespaces: NamespacePlan,
    busy: bool,
    proc: &OwnedFd,
    join: impl FnOnce() -> Result<(), ControlError>,
) -> Result<Begun, ControlError> {
    // Started first, because creating the network namespace takes longest.
    let network = (namespaces.enabled && namespaces.network != NetworkMode::Host).then(|| NetnsBuilder::start(busy));
    let signals = descriptors::signals(namespaces.enabled)?;
    let score = OomScore::open(proc.as_fd())?;
    join()?;
    // Do everything that needs no ids while the launcher writes the id maps.
    let in_namespaces = namespaces.enabled.then(namespace::unshare_cgroup_and_set_host_name);
    Ok(Begun { network, signals, score, in_namespaces, early: None })
}

fn confine(
    inherited: &Inherited<'_>,
    Begun { network, signals, score, in_namespaces, early }: Begun,
    mut go: ConfineChannel,
    controls: &mut Vec<ControlReport>,
) -> Result<Confined, ControlError> {
    let plan = inherited.plan;
    let mut record = ControlRecord { controls, degrade: plan.allow_degraded };
    if let Some(entered) = in_namespaces {
        record.control(Control::Namespaces, || {
            entered?;
            Ok((ControlStatus::Enforced, plan.namespaces.describe()))
        })?;
    }
    let is_early = early.is_some();
    let (ids, base) = match early {
        Some(Early { ids, base }) => (ids, base),
        None => (go.ids()?, None),
    };
    if plan.namespaces.enabled && !is_early {
        idmap::assume(ids.map, ids.privileged)?;
    }
    let owner = record_ids(plan, &ids, &mut record)?;
    let has_view = tree::enter(inherited, &ids, base, go, &mut record)?;
    // Do everything that does not need the network namespace first, because its creation may still be running.
    if !is_early {
        if plan.namespaces.enabled {
            privileges::limit_bounding_set(plan.capabilities)?;
        }
        privileges::own_keyring()?;
    }
    let landlock = prepare_landlock(plan, has_view);
    let sockets = network.map_or(Ok(Vec::new()), |network| enter_network(network, plan, &mut record))?;
    drop_privileges(plan, &mut record)?;
    limit_resources(inherited, &mut record)?;
    if let Some(prepared) = landlock {
        record.control(Control::Landlock, || prepared?.enforce())?;
    }
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(|e| process_error("pidfd_open", e))?;
    let watches = inherited.watches.iter().map(|w| w.fd.as_raw_fd());
    let sockets_kept = sockets.iter().map(|(_, socket)| socket.as_raw_fd());
    let kept = [inherited.channel.as_raw_fd(), signals.as_raw_fd(), score.descriptor(), own.as_raw_fd()];
    descriptors::close_others(watches.chain(sockets_kept).chain(kept).collect())?;
    if let Some(filter) = inherited.filter {
        install_filter(filter, plan, has_view, &mut record)?;
    }
    Ok(Confined { signals, score, own, owner, sockets })
}

/// Moves this process into its network namespace. Returns the sockets of the gateway. A sandbox with granted hosts does not run
/// without them, even if the caller accepted degraded isolation.
fn enter_network(
    network: Result<NetnsBuilder, ControlError>,
    plan: &SandboxPlan,
    record: &mut ControlRecord<'_>,
) -> Result<Vec<(GatewaySocket, OwnedFd)>, ControlError> {
    let join = || network?.join();
    if plan.namespaces.network == NetworkMode::Egress {
        join()?;
        let Prepared { sockets, status, detail } = gateway::prepare(&plan.gateway_ports)?;
        record.controls.push(ControlReport { control: Control::Network, status, detail });
        return Ok(sockets);
    }
    record.control(Control::Network, || join().map(|()| (ControlStatus::Enforced, "loopback only".to_owned())))?;
    Ok(Vec::new())
}

/// Moves this process into the sandbox's cgroup. Without a PID namespace, also makes it adopt the orphans of its descendants.
fn join_group(inherited: &Inherited<'_>) -> Result<(), ControlError> {
    if !inherited.plan.namespaces.enabled {
        // Process 1 of a PID namespace adopts the orphans of the namespace anyway.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| process_error("become a subreaper", e))?;
    }
    inherited.cgroup.map_or(Ok(()), Cgroup::join)
}

/// Records the ids that this process has assumed, and restricts this process to the number of processors that the sandbox may
/// use. Returns [`Confined::owner`].
fn record_ids(plan: &SandboxPlan, ids: &Ids, record: &mut ControlRecord<'_>) -> Result<Option<(u32, u32)>, ControlError> {
    if !plan.namespaces.enabled {
        return Ok(None);
    }
    let (status, detail) = ids.report.clone();
    record.controls.push(ControlReport { control: Control::Idmap, status, detail });
    if let Some(quota) = plan.cgroup.cpu_quota {
        affinity::limit(quota)?;
    }
    Ok(ids.privileged.then_some((ids.map.host_uid, ids.map.host_gid)))
}

/// Creates the Landlock ruleset of the plan, for the tree that this process sees.
fn prepare_landlock(plan: &SandboxPlan, has_view: bool) -> Option<Result<landlock::PreparedRuleset, ControlError>> {
    let rules = plan.landlock.as_ref()?;
    Some(match &plan.tree {
        Tree::View(view) if !has_view => landlock::prepare(&rules.without_view(&view.private())),
        _ => landlock::prepare(rules),
    })
}

fn drop_privileges(plan: &SandboxPlan, record: &mut ControlRecord<'_>) -> Result<(), ControlError> {
    // Set after the change of ids, because that change clears the parent-death signal.
    privileges::die_with_parent(if plan.namespaces.enabled { libc::SIGKILL } else { libc::SIGTERM })?;
    if plan.namespaces.enabled {
        privileges::drop_capabilities(plan.capabilities)?;
    }
    privileges::harden()?;
    if plan.namespaces.enabled {
        record.enforced(Control::Privileges, plan.capabilities.describe());
    }
    Ok(())
}

/// Limits the number of processes, and reports limits that have no or only a partial effect.
fn limit_resources(inherited: &Inherited<'_>, record: &mut ControlRecord<'_>) -> Result<(), ControlError> {
    let plan = inherited.plan;
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
        record.controls.push(ControlReport { control: Control::Rlimits, status, detail: String::new() });
    }
    Ok(())
}

/// Installs the seccomp filter, and passes its listener to the thread that answers calls (see [`listener`]).
fn install_filter(
    filter: &seccomp::Program,
    plan: &SandboxPlan,
    has_view: bool,
    record: &mut ControlRecord<'_>,
) -> Result<(), ControlError> {
    // Without a view, `/proc` is the host's.
    let context = listener::ListenerContext { kept: plan.capabilities, own_proc: has_view };
    record.control(Control::Seccomp, || {
        let thread = listener::start(context)?;
        if let Some(listener) = seccomp::apply_with_listener(filter)? {
            // Sending fails only if the thread has ended. No calls would then be answered.
            thread.send(listener).map_err(|_| ControlError::new(Control::Seccomp, "send the listener to its thread", None))?;
        }
        Ok((ControlStatus::Enforced, format!("{} instructions", filter.instructions())))
    })
}

fn process_error(call: &str, errno: rustix::io::Errno) -> ControlError {
    ControlError::new(Control::Process, call, Some(errno.raw_os_error()))
}

fn io_error(call: &str, error: std::io::Error) -> ControlError {
    ControlError::caused_by(Control::Process, call, error)
}
