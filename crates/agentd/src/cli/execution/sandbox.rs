//! Executes an intent in a new sandbox, the way `agentd run` executes a command.

use super::{
    super::{
        args::{NetworkArg, RunArgs},
        begin::{self, Before, Begun, RunInput},
        failure::{self, Failure},
        host_approvals::HostApprovals,
        network::{FlowReader, NetworkSummary},
        protection, run,
        secrets::{self, ReadSecrets},
        stops::Stops,
        temporary,
    },
    advice,
    command::{self, CommandCaller},
    executed::{ExecutedIntent, end_cancelled},
    options::ExecutionOptions,
};
use crate::isolation::backends_with;
use agentd_core::{Access, Command, ControlStatus, EndReason, IsolationError, Network, Sandbox, SandboxSpec};
use agentd_engine::{EngineError, Executed, Execution, Operation, RunResult, Terms, ValidIntent, WorkspaceAccess};
use agentd_log::measure::{CountedFact, Stage};
use agentd_records::receipt::RecordedEgress;
use agentd_tool::{
    call::{CallError, CallOptions},
    capability::CapabilityCall,
    request::ToolCall,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};
use tracing::{Instrument as _, Span};

/// Executes an intent in a new sandbox, and records its end. A request of `earlier` before the start ends the intent.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(super) async fn execute(
    execution: Execution<'_>,
    options: ExecutionOptions<'_>,
    earlier: &mut Stops,
) -> Result<ExecutedIntent, EngineError> {
    let prepared = tokio::select! {
        biased;
        _ = earlier.next() => Ok(None),
        prepared = Prepared::new(&execution, &options).instrument(Stage::Sandbox.span()) => prepared,
    };
    let prepared = prepared.map_err(|failure| advice::of_call(&failure::message(&*failure)));
    let Prepared { begun, args } = match prepared {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return Ok(ExecutedIntent::not_begun(end_cancelled(execution).await?)),
        Err(message) => return Ok(ExecutedIntent::not_begun(execution.fail(&message).await?)),
    };
    let Begun { selected, sandbox, spec, mut command, before } = begun;
    secrets::add_environment(&mut command, sandbox.network_environment(), &args.command.env);
    let Before { mut compared, mut stops, .. } = before;
    let unenforced = unenforced(&execution, &spec, &command, (selected.backend.name(), &*sandbox));
    if let Some(problem) = unenforced {
        let message = format!("the sandbox differs from the decision: {problem} — report this as a bug of agentd");
        return end_before_start(execution, &*sandbox, &message).await;
    }
    let observers = Observers::start(&execution, &*sandbox, &spec, &options).map_err(|failure| failure::message(&*failure));
    let Observers { flows, approvals } = match observers {
        Ok(observers) => observers,
        Err(message) => return end_before_start(execution, &*sandbox, &message).await,
    };
    compared.command_begins();
    let was_live = options.caller.is_live(execution.valid());
    let caller = CommandCaller::new(options, execution.valid());
    let exec = Stage::Exec.span();
    exec.record("backend", selected.backend.name());
    let ran = async {
        match &execution.valid().operation {
            Operation::Command(line) => {
                caller.set_streams(line, &mut command);
                command::run(sandbox.exec_streaming(command), line, &args.command, caller, &mut stops).await
            }
            Operation::Cell(_) | Operation::Sandbox(_) => RunResult::Tool(Err(not_here())),
            Operation::Tool(call) => RunResult::Tool(tool_in(&*sandbox, call, command, &mut stops).await),
        }
    };
    let ran = ran.instrument(exec).await;
    // The sandbox is destroyed before the protected paths are compared, so that no process can change them afterwards.
    let destroyed = run::destroy(&sandbox, &mut stops, &mut compared).await;
    let is_destroyed = matches!(destroyed, Ok(None));
    let (protected, _) = compared.report(&mut stops).await;
    let mut network = observed_network(flows, approvals, is_destroyed).await;
    if let Some(network) = &mut network {
        network.add_grants_of_intent(&execution.terms().effective.network);
    }
    let mut notices: Vec<String> = protection::lines(&protected).collect();
    notices.extend(network.iter().flat_map(NetworkSummary::notices));
    let egress = network.as_ref().map(NetworkSummary::recorded);
    egress.iter().for_each(count_verdicts);
    let ended = execution
        .finish(Executed {
            backend: selected.backend.name(),
            controls: sandbox.controls(),
            evidence: selected.proven.as_ref().map_or(&[][..], |proven| proven.evidence.as_slice()),
            egress,
            ran,
        })
        .await?;
    notices.extend(destroyed.err().and_then(|error| notice_of_rest(&error)));
    Ok(ExecutedIntent { ended, was_live, notices, stopped: stops.first })
}

/// Destroys a sandbox in which nothing has run, and records the failure of its intent.
async fn end_before_start(execution: Execution<'_>, sandbox: &dyn Sandbox, message: &str) -> Result<ExecutedIntent, EngineError> {
    let destroyed = sandbox.destroy().await;
    let ended = execution.fail(message).await?;
    let notices = destroyed.err().and_then(|error| notice_of_rest(&error)).into_iter().collect();
    Ok(ExecutedIntent { notices, ..ExecutedIntent::not_begun(ended) })
}

/// Returns the notice that parts of a sandbox may remain after the error of its destruction.
fn notice_of_rest(error: &IsolationError) -> Option<String> {
    // The kernel has ended all sandboxes of a launcher that died (`PR_SET_PDEATHSIG`, and the end of PID namespaces).
    if matches!(error, IsolationError::LauncherDied(_)) {
        return None;
    }
    tracing::error!(%error, "a sandbox was not destroyed");
    Some(format!("parts of the sandbox may remain: {}", failure::message(error)))
}

/// What observes the network of a sandbox.
struct Observers {
    flows: Option<FlowReader>,
    approvals: Option<HostApprovals>,
}

impl Observers {
    fn start(
        execution: &Execution<'_>,
        sandbox: &dyn Sandbox,
        spec: &SandboxSpec,
        options: &ExecutionOptions<'_>,
    ) -> Result<Self, Failure> {
        let intent = &execution.valid().intent;
        let what = format!("{} of {}, intent {}", intent.capability, intent.principal.id(), execution.id());
        Ok(Self {
            flows: FlowReader::start(sandbox, Vec::new())?,
            approvals: HostApprovals::start(sandbox, spec, &what, options.caller.notify())?,
        })
    }
}

/// Waits for the threads that observe the network, and returns what they saw.
async fn observed_network(
    flows: Option<FlowReader>,
    approvals: Option<HostApprovals>,
    is_destroyed: bool,
) -> Option<NetworkSummary> {
    if flows.is_none() && approvals.is_none() {
        return None;
    }
    let finish = move || {
        if let Some(approvals) = approvals {
            approvals.finish(is_destroyed);
        }
        flows.map(|flows| flows.finish(is_destroyed))
    };
    // A panic has already been reported by the panic hook.
    tokio::task::spawn_blocking(finish).await.ok().flatten()
}

/// A sandbox that was created for an intent.
struct Prepared {
    begun: Begun,
    args: RunArgs,
}

impl Prepared {
    /// Creates the sandbox. Returns `None` if a request to stop interrupted this.
    async fn new(execution: &Execution<'_>, options: &ExecutionOptions<'_>) -> Result<Option<Self>, Failure> {
        let mut args = run_args(execution, options.backend)?;
        if let Operation::Command(line) = &execution.valid().operation {
            // The standard input of the daemon is not that of its callers.
            if line.stream_stdin && options.input.is_none() && !options.caller.is_here() {
                return Err(
                    "stdin_stream: the transport sends no input to a running command — use a stream of gRPC, or leave it out"
                        .into(),
                );
            }
            let is_pipe = options.caller.is_here() && !rustix::termios::isatty(rustix::stdio::stdin());
            if line.pty.is_some() && line.stream_stdin && is_pipe {
                // A terminal has no permanent end of file, which the end of a pipe would need.
                return Err("stdin_stream: standard input is not a terminal — leave out pty or stdin_stream".into());
            }
        }
        args.secret = options.secrets.to_vec();
        let work_root = temporary::of_run(&args.boundary)?;
        let secrets = ReadSecrets::of(&mut args)?;
        let input = RunInput { args: &args, secrets: &secrets, image: None, stops: &options.stops };
        match begin::begin(input, &work_root).await? {
            Ok(begun) => {
                Span::current().record("backend", begun.selected.backend.name());
                Ok(Some(Self { begun, args }))
            }
            Err(_) => Ok(None),
        }
    }
}

fn count_verdicts(egress: &RecordedEgress) {
    for allowed in [true, false] {
        let number = egress.flows.iter().filter(|flow| flow.allowed == allowed).map(|flow| flow.flows).sum();
        CountedFact::Egress { allowed, number }.emit();
    }
}

/// Returns the arguments of `agentd run` that request the sandbox of these terms.
pub(super) fn run_args(execution: &Execution<'_>, backend: Option<&str>) -> Result<RunArgs, Failure> {
    let (valid, Terms { effective, .. }) = (execution.valid(), execution.terms());
    let mut args = RunArgs::usual()?;
    let access = valid.workspace_access();
    let workspace = valid.intent.workspace.as_ref().filter(|_| access > WorkspaceAccess::None).map(|named| &named.path);
    let boundary = &mut args.boundary;
    boundary.workspace = Some(workspace.map_or_else(|| "none".into(), PathBuf::from));
    boundary.workspace_ro = access == WorkspaceAccess::ReadOnly;
    boundary.profile = Some(effective.profile.into());
    boundary.net = match &effective.network {
        Network::Off => vec![NetworkArg::Off],
        Network::Host => vec![NetworkArg::Host],
        Network::Egress(hosts) => vec![NetworkArg::Allow(hosts.clone())],
    };
    let limits = &effective.limits;
    boundary.limits.memory = limits.memory;
    boundary.limits.cpus = limits.cpu_quota;
    boundary.cpu_weight = limits.cpu_weight;
    boundary.limits.cpu_time = limits.cpu_time;
    boundary.limits.pids = limits.processes;
    boundary.limits.open_files = limits.open_files;
    boundary.limits.file_size = limits.file_size;
    args.command.timeout = limits.wall;
    args.command.max_output = limits.output;
    // The time limit of the terms includes the grace period.
    args.command.grace = limits.grace.unwrap_or(Duration::ZERO);
    args.backend = match backend {
        None => usable_backend(&effective.backends)?,
        named => named.map(str::to_owned),
    };
    let place = workspace.map(PathBuf::from);
    args.command.cwd.clone_from(&place);
    if let Operation::Command(line) = &valid.operation {
        args.command.argv = line.argv.iter().map(Into::into).collect();
        args.command.tty = line.pty.is_some();
        args.command.interactive = line.stream_stdin;
        args.command.env = line.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if let Some(cwd) = &line.cwd {
            args.command.cwd = Some(match place {
                Some(place) => place.join(cwd),
                // In a named sandbox, the path is relative to the directory in which its commands start.
                None if Path::new(cwd).is_absolute() || valid.intent.sandbox.is_some() => cwd.into(),
                None => return Err(format!("cwd: {cwd:?} is relative, and there is no workspace — use an absolute path").into()),
            });
        }
    }
    Ok(args)
}

/// Returns the backend to request by name. Returns `None` if every backend is permitted that a run without a name may select.
fn usable_backend(permitted: &BTreeSet<String>) -> Result<Option<String>, Failure> {
    let automatic = backends_with(&std::env::temp_dir(), |traits| traits.boundary && !traits.own_kernel);
    if automatic.iter().all(|name| permitted.contains(name)) {
        return Ok(None);
    }
    let first = automatic.into_iter().find(|name| permitted.contains(name)).or_else(|| permitted.first().cloned());
    first.map(Some).ok_or_else(|| "no backend is permitted — change the policies".into())
}

/// Returns the workspace that the sandbox of an intent shows, and the access to it.
pub(super) fn workspace_of<'v>(valid: &'v ValidIntent<'_>) -> Option<(&'v Path, Access)> {
    let access = match valid.workspace_access() {
        WorkspaceAccess::None => return None,
        WorkspaceAccess::ReadOnly => Access::ReadOnly,
        WorkspaceAccess::ReadWrite => Access::ReadWrite,
    };
    valid.intent.workspace.as_ref().map(|workspace| (Path::new(&workspace.path), access))
}

/// Returns the error of a cell, which is never executed in a new sandbox.
fn not_here() -> CallError {
    CallError::Ended { reason: EndReason::Cancelled, message: "a cell needs a session".to_owned() }
}

/// Returns the first term that the created sandbox does not meet. This is the last check before anything is executed.
fn unenforced(
    execution: &Execution<'_>,
    spec: &SandboxSpec,
    command: &Command,
    (backend, sandbox): (&str, &dyn Sandbox),
) -> Option<String> {
    let writable = spec.grants.iter().filter(|grant| grant.access == Access::ReadWrite);
    let writable: Vec<_> = writable.map(|grant| grant.path.as_path()).collect();
    let workspace = workspace_of(execution.valid()).filter(|(_, access)| *access == Access::ReadWrite);
    let expected: Vec<_> = workspace.iter().map(|(path, _)| *path).collect();
    if writable != expected {
        return Some(format!("writable directories: {writable:?}"));
    }
    if let Some(missing) = sandbox.controls().iter().find(|report| matches!(report.status, ControlStatus::Missing(_))) {
        return Some(format!("control {}: missing", missing.control));
    }
    execution.terms().unmet(spec, command, backend)
}

/// Carries out an operation of agentd's own program. A signal ends the wait, and the sandbox is then destroyed.
async fn tool_in(
    sandbox: &dyn Sandbox,
    call: &CapabilityCall,
    Command { cwd, env, .. }: Command,
    stops: &mut Stops,
) -> Result<agentd_tool::call::CallOutput, CallError> {
    // The engine refuses such an operation without a workspace; the process refuses an empty path.
    let within = call.stays_in_workspace().then(|| cwd.as_deref().unwrap_or(Path::new("")).into());
    let request = ToolCall { within, request: call.request.clone() };
    let options = CallOptions { cwd, env, ..CallOptions::default() };
    tokio::select! {
        biased;
        _ = stops.next() => Err(CallError::Ended { reason: EndReason::Cancelled, message: String::new() }),
        ended = agentd_tool::call::call(sandbox, &request, &call.content, options) => ended,
    }
}
