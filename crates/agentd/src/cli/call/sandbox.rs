//! Executes an intent in a new sandbox, the way `agentd run` executes a command.

use super::super::{
    args::{NetworkArg, RunArgs},
    begin::{self, Before, Begun, RunInput},
    failure::{self, Failure},
    host_approvals::HostApprovals,
    network::{FlowReader, NetworkSummary},
    protection,
    receipt::OutputDigests,
    run,
    secrets::{self, ReadSecrets},
    stops::Stops,
    stream, temporary, writer,
};
use crate::isolation::backends_with;
use agentd_core::{Access, Command, ControlStatus, IsolationError, Network, Outcome, Sandbox, SandboxSpec, StdinSource};
use agentd_engine::{CommandLine, EndedIntent, Executed, Execution, Operation, Ran, Terms, WorkspaceAccess};
use agentd_tool::{
    call::{CallError, CallOptions},
    capability::CapabilityCall,
    request::ToolCall,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

/// The number of bytes of each stream that a result has.
const CAPTURE: u64 = 256 << 10;

/// Executes an intent in a new sandbox, and records its end. A signal that `earlier` receives before the start ends the intent.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(super) async fn execute(
    execution: Execution<'_>,
    backend: Option<&str>,
    earlier: &mut Stops,
) -> Result<EndedIntent, Failure> {
    let prepared = tokio::select! {
        biased;
        signal = earlier.next() => Err(stopped(signal)),
        prepared = Prepared::new(&execution, backend) => prepared,
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return Ok(execution.fail(&failure::message(&*failure)).await?),
    };
    let Prepared { begun, args } = prepared;
    let Begun { selected, sandbox, spec, mut command, before } = begun;
    secrets::add_environment(&mut command, sandbox.network_environment(), &args.command.env);
    let Before { mut compared, mut stops, .. } = before;
    let unenforced = unenforced(&execution, &spec, &command, (selected.backend.name(), &*sandbox));
    if let Some(problem) = unenforced {
        sandbox.destroy().await?;
        return Ok(execution.fail(&format!("the sandbox is not the one that was decided: {problem} — report this")).await?);
    }
    let flows = FlowReader::start(&*sandbox, Vec::new())?;
    let approvals = HostApprovals::start(&*sandbox, &spec)?;
    compared.command_begins();
    let ran = match &execution.valid().operation {
        Operation::Command(line) => command_in(&sandbox, line, command, &args, &mut stops).await,
        Operation::Tool(call) => Ran::Tool(tool_in(&*sandbox, call, command.cwd, &mut stops).await),
    };
    // The sandbox is destroyed before the protected paths are compared, so that no process can change them afterwards.
    let destroyed = run::destroy(&sandbox, &mut stops, &mut compared).await;
    if let Some(approvals) = approvals {
        approvals.finish(matches!(destroyed, Ok(None)));
    }
    let (protected, _) = compared.report(&mut stops).await;
    protection::warn(&protected);
    let network = flows.map(|flows| flows.finish(matches!(destroyed, Ok(None))));
    network.iter().for_each(NetworkSummary::warn);
    let ended = execution
        .finish(Executed {
            backend: selected.backend.name(),
            controls: sandbox.controls(),
            evidence: selected.proven.as_ref().map_or(&[][..], |proven| proven.evidence.as_slice()),
            egress: network.as_ref().map(NetworkSummary::recorded),
            ran,
        })
        .await?;
    destroyed?;
    Ok(ended)
}

/// A sandbox that was created for an intent.
struct Prepared {
    begun: Begun,
    args: RunArgs,
}

impl Prepared {
    async fn new(execution: &Execution<'_>, backend: Option<&str>) -> Result<Self, Failure> {
        let mut args = run_args(execution, backend)?;
        let work_root = temporary::of_run(&args.boundary)?;
        let secrets = ReadSecrets::of(&mut args)?;
        let input = RunInput { args: &args, secrets: &secrets, image: None };
        match begin::begin(input, &work_root).await? {
            Ok(begun) => Ok(Self { begun, args }),
            Err(signal) => Err(stopped(signal)),
        }
    }
}

fn stopped(signal: i32) -> Failure {
    format!("agentd received signal {signal} before the start").into()
}

/// Returns the arguments of `agentd run` that request the sandbox of these terms.
fn run_args(execution: &Execution<'_>, backend: Option<&str>) -> Result<RunArgs, Failure> {
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
    boundary.memory = limits.memory;
    boundary.cpus = limits.cpu_quota;
    boundary.cpu_weight = limits.cpu_weight;
    boundary.cpu_time = limits.cpu_time;
    boundary.pids = limits.processes;
    boundary.open_files = limits.open_files;
    boundary.file_size = limits.file_size;
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
        args.command.env = line.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if let Some(cwd) = &line.cwd {
            args.command.cwd = Some(match place {
                Some(place) => place.join(cwd),
                None if Path::new(cwd).is_absolute() => cwd.into(),
                None => return Err(format!("cwd: {cwd:?} is relative, and the sandbox shows no workspace — name one").into()),
            });
        }
    }
    Ok(args)
}

/// Returns the backend to name: none, if every backend is permitted that is chosen without a name.
fn usable_backend(permitted: &BTreeSet<String>) -> Result<Option<String>, Failure> {
    let automatic = backends_with(&std::env::temp_dir(), |traits| traits.boundary && !traits.own_kernel);
    if automatic.iter().all(|name| permitted.contains(name)) {
        return Ok(None);
    }
    let first = automatic.into_iter().find(|name| permitted.contains(name)).or_else(|| permitted.first().cloned());
    first.map(Some).ok_or_else(|| "no backend is permitted — change the policies".into())
}

/// Returns the first term that the created sandbox does not meet. This is the last check before anything is executed.
fn unenforced(
    execution: &Execution<'_>,
    spec: &SandboxSpec,
    command: &Command,
    (backend, sandbox): (&str, &dyn Sandbox),
) -> Option<String> {
    let valid = execution.valid();
    let writable = spec.grants.iter().filter(|grant| grant.access == Access::ReadWrite);
    let writable: Vec<_> = writable.map(|grant| grant.path.as_path()).collect();
    let workspace = valid.intent.workspace.as_ref().filter(|_| valid.workspace_access() == WorkspaceAccess::ReadWrite);
    let expected: Vec<_> = workspace.iter().map(|workspace| Path::new(&workspace.path)).collect();
    if writable != expected {
        return Some(format!("writable directories: {writable:?}"));
    }
    if let Some(missing) = sandbox.controls().iter().find(|report| matches!(report.status, ControlStatus::Missing(_))) {
        return Some(format!("control {}: missing", missing.control));
    }
    execution.terms().unmet(spec, command, backend)
}

/// Runs a command. A signal ends it.
async fn command_in(
    sandbox: &Arc<dyn Sandbox>,
    line: &CommandLine,
    mut command: Command,
    args: &RunArgs,
    stops: &mut Stops,
) -> Ran {
    command.stdin = if line.stdin.is_empty() { StdinSource::Null } else { StdinSource::Stream };
    let input = stream::CommandInput::Bytes(line.stdin.clone());
    let digests = OutputDigests::default();
    let ran = async {
        let handle = sandbox.exec_streaming(command).await?;
        let (output, kept) = writer::keep(CAPTURE);
        let (outcome, _) = stream::serve(handle, &args.command, input, stops, digests.observe(output)).await?;
        let [stdout, stderr] = std::mem::replace(
            &mut *kept.lock().unwrap_or_else(PoisonError::into_inner),
            [0; 2].map(agentd_isolation::HeadTail::new),
        );
        Ok::<_, IsolationError>(Outcome { stdout: stdout.finish(), stderr: stderr.finish(), ..outcome })
    };
    let ran = ran.await;
    Ran::Command(ran, digests.finish())
}

/// Carries out an operation of agentd's own program. A signal ends the wait, and the sandbox is then destroyed.
async fn tool_in(
    sandbox: &dyn Sandbox,
    call: &CapabilityCall,
    cwd: Option<PathBuf>,
    stops: &mut Stops,
) -> Result<agentd_tool::call::CallOutput, CallError> {
    let request = ToolCall { within: None, request: call.request.clone() };
    let options = CallOptions { cwd, ..CallOptions::default() };
    tokio::select! {
        biased;
        _ = stops.next() => Err(CallError::Ended { reason: agentd_core::EndReason::Cancelled, message: String::new() }),
        ended = agentd_tool::call::call(sandbox, &request, &call.content, options) => ended,
    }
}
