//! `agentd run`: runs one command in a new sandbox.

use super::{
    args::{Cli, CommandArgs, NetworkArg, RequireArg, RunArgs},
    begin::{self, Before, Begun, RunInput},
    comparison::Comparison,
    explain,
    failure::{self, CANNOT, Failure},
    hidden,
    host_approvals::{self, HostApprovals},
    image,
    network::{FlowReader, NetworkSummary},
    protection::{self, Advice},
    receipt::{Ended, Recording, RequestedReceipt},
    request,
    result_object::{self, ResultObject},
    secrets::{self, ReadSecrets},
    selection::{self, Selected},
    stops::{StopSource, Stops},
    stream, temporary, toolchains, writer,
};
use agentd_core::{
    Claim, Command, Control, ControlReport, ControlStatus, EndReason, Grant, IsolationError, Limits, NetworkMode, Outcome,
    Profile, Sandbox, Usage,
};
use agentd_isolation::{HeadTail, protect::Report, shared_kernel};
use std::{
    ffi::OsString,
    io::Write,
    sync::{Arc, PoisonError},
};

/// Starts the launcher before the arguments are parsed. Unless an argument may request another first process, the launcher also
/// starts the first process that most runs need, and this function returns true.
pub(crate) fn prepare_usual(arguments: &[OsString]) -> bool {
    if !Cli::may_need_launcher(arguments) {
        return false;
    }
    // The launcher is a fork of this process, which uses little memory now. It starts up while the arguments are parsed.
    if !Cli::is_usual(arguments) || selection::is_default_set() {
        shared_kernel::start_launcher();
        return false;
    }
    shared_kernel::prepare(NetworkMode::Off, Profile::Default, &Limits::default(), true);
    true
}

/// Has the launcher start the first process of the sandbox while the run is planned (decision 0079).
pub(crate) fn prepare(args: &RunArgs) {
    // A machine has its own launcher, in the guest.
    if !args.explain && selection::is_on_hosts_kernel(args) {
        // A fault in the network options is reported when the run is planned.
        let Ok(network) = NetworkArg::network(&args.boundary.net) else { return };
        let (profile, limits) = (request::profile(&args.boundary), request::limits(&args.boundary));
        shared_kernel::prepare(network.mode(), profile, &limits, selection::expects_a_view(args));
    }
}

/// Plans and creates the sandbox, runs the command, and destroys the sandbox. Returns the exit code. With `--json`, prints an
/// object even after an error.
pub(crate) async fn run(args: RunArgs) -> Result<u8, Failure> {
    let json = args.json && !args.explain;
    if json && agentd_kernel::stdout_was_closed() {
        return Err("print JSON: standard output is closed — redirect it to a file or pipe, or drop --json".into());
    }
    let mut result = ResultObject::default();
    let failure = match attempt(args, &mut result).await {
        Err(failure) => failure,
        ended => return ended,
    };
    let code = match failure.downcast_ref::<IsolationError>() {
        Some(IsolationError::Spawn { program, errno }) => {
            let code = not_executed(program, *errno);
            if *errno == libc::ENOENT {
                hidden::note(program);
            }
            code
        }
        _ => CANNOT,
    };
    if json && !result.printed {
        let lost = failure.downcast_ref().is_some_and(IsolationError::is_loss);
        let object = result_object::error(&failure::message(&*failure), lost.then_some(EndReason::BackendLost));
        result_object::print(object, &result.protected, &mut Stops::new()?, Some(stream::DRAIN)).await?;
    }
    if code == CANNOT { Err(failure) } else { Ok(code) }
}

/// Runs the command. `result` receives what `--json` reports if the run ends with an error.
async fn attempt(mut args: RunArgs, result: &mut ResultObject) -> Result<u8, Failure> {
    let work_root = temporary::of_run(&args.boundary)?;
    let secrets = ReadSecrets::of(&mut args)?;
    if args.explain {
        return print_plan(&args, &selection::of_run(&args, &work_root).await?, &secrets).await;
    }
    let requested = RequestedReceipt::of(&args)?;
    // Held until the sandbox is gone, so that its layers are not collected.
    let held = args.boundary.image.as_ref().map(image::hold).transpose()?;
    let image = held.as_ref().map(|(image, _)| image);
    let input = RunInput { args: &args, secrets: &secrets, image, stops: &StopSource::Signals };
    let Begun { selected, sandbox, spec, mut command, before } = match begin::begin(input, &work_root).await? {
        Ok(begun) => begun,
        Err(stop) => return Ok(stopped_by(stop)),
    };
    secrets::add_environment(&mut command, sandbox.network_environment(), &args.command.env);
    let Before { advice, mut compared, mut stops } = before;
    let mut flows = FlowReader::start(&*sandbox, NetworkArg::deny_reasons(&args.boundary.net))?;
    let approvals = HostApprovals::start(&*sandbox, &spec, &in_words(&command), Box::new(host_approvals::print))?;
    // An image has its own programs, and without a boundary no directory is hidden.
    let hides = image.is_none() && selected.backend.traits().boundary;
    if !args.json {
        warn_of_weaknesses(sandbox.controls());
    }
    let mut recording = requested.map(|requested| requested.record(&spec, &command)).transpose()?;
    compared.command_begins();
    let ran = if args.json {
        let about = (&mut compared, &mut *result, &mut flows, &mut recording);
        in_json(&sandbox, command, &args.command, (&selected, &args.require), &mut stops, about).await
    } else {
        match sandbox.exec_streaming(command).await {
            Ok(handle) => {
                compared.start_thread();
                let output = observed(recording.as_ref(), writer::start());
                stream::stream(handle, &args.command, &mut stops, output).await
            }
            Err(error) => Err(error),
        }
    };
    // Destroy the sandbox before the protected paths are compared, so that no process can change them afterwards.
    let destroyed = destroy(&sandbox, &mut stops, &mut compared).await;
    if let Some(approvals) = approvals {
        approvals.finish(matches!(destroyed, Ok(None)));
    }
    let mut stopped = None;
    if !result.printed {
        (result.protected, stopped) = compared.report(&mut stops).await;
    }
    let network = flows.take().map(|flows| flows.finish(matches!(destroyed, Ok(None))));
    if !args.json {
        network.iter().for_each(NetworkSummary::warn);
        print_notes(&result.protected, ran.as_ref().ok().map(|(_, code)| *code), &advice);
    }
    // With `--json`, the run was recorded before the object was printed, unless an error ended the run.
    let unrecorded = recording.and_then(|recording| {
        let (controls, egress) = (sandbox.controls(), network.as_ref().map(NetworkSummary::recorded));
        let ran = ran.as_ref().map(|(outcome, _)| outcome);
        recording.finish(Ended { selected: &selected, controls, egress, ran }).err()
    });
    let unrecorded = unrecorded.map(|error| not_recorded(&failure::message(&*error)));
    let ran = ran.map(|(_, code)| code);
    drop(held);
    if hides {
        hint_at_hidden_program(&ran, &args, &spec.grants);
    }
    let code = unrecorded.unwrap_or(stopped.map_or(ran?, stopped_by));
    match destroyed {
        // The result object is already printed, and a run prints only one object.
        Err(error) if args.json => Ok(not_destroyed(&error)),
        destroyed => destroyed.map(|given_up| given_up.unwrap_or(code)).map_err(Into::into),
    }
}

/// Prints the plan of the sandbox.
async fn print_plan(args: &RunArgs, selected: &Selected, secrets: &ReadSecrets) -> Result<u8, Failure> {
    let image = args.boundary.image.as_ref().map(image::find).transpose()?;
    let (spec, _) = RunInput { args, secrets, image: image.as_ref(), stops: &StopSource::Signals }.request(&*selected.backend)?;
    let text = explain::text(selected, &args.require, &spec).await?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// Prints the option that shows a program of the host, after a command did not find the program.
fn hint_at_hidden_program(ran: &Result<u8, IsolationError>, args: &RunArgs, grants: &[Grant]) {
    match ran {
        Err(IsolationError::Spawn { program, errno: libc::ENOENT }) => toolchains::hint(program, grants),
        Ok(127) if !args.json => toolchains::hint_after_shell(&args.command.argv, grants),
        _ => {}
    }
}

/// Prints the changes of protected paths, and notes about a command that has failed.
fn print_notes(changed: &Report, code: Option<u8>, advice: &Advice) {
    protection::warn(changed);
    if matches!(code, Some(1..)) {
        advice.print();
    }
    if code == Some(127) {
        hidden::note_of_environments();
    }
}

/// Returns the command for an approver.
fn in_words(command: &Command) -> String {
    let words: Vec<_> = command.argv.iter().map(|word| word.to_string_lossy()).collect();
    format!("the command {}", words.join(" "))
}

/// Returns the exit code of a program that a signal has ended.
pub(crate) fn stopped_by(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(CANNOT)
}

/// Destroys a sandbox; `compared` reports if its processes may remain. A second signal stops the wait: the launcher destroys the
/// sandbox when agentd has exited. Returns the exit code in that case.
pub(crate) async fn destroy(
    sandbox: &Arc<dyn Sandbox>,
    stops: &mut Stops,
    compared: &mut Comparison,
) -> Result<Option<u8>, IsolationError> {
    let destroyed = wait_for_end(sandbox, stops).await;
    if !matches!(destroyed, Ok(None)) {
        compared.processes_may_remain();
    }
    destroyed
}

async fn wait_for_end(sandbox: &Arc<dyn Sandbox>, stops: &mut Stops) -> Result<Option<u8>, IsolationError> {
    if let Some(code) = stops.given_up {
        return Ok(Some(code));
    }
    let mut destroyed = sandbox.destroy();
    loop {
        let stop = tokio::select! {
            biased;
            destroyed = &mut destroyed => return destroyed.map(|()| None),
            stop = stops.next() => stop,
        };
        if stops.received > 1 {
            writer::message(format_args!("interrupted before the sandbox was destroyed: its processes may run a little longer"));
            let code = stopped_by(stop);
            stops.given_up = Some(code);
            return Ok(Some(code));
        }
    }
}

/// Prints that parts of the sandbox remain; returns the exit code.
fn not_destroyed(error: &IsolationError) -> u8 {
    writer::message(format_args!("{}", failure::message(error)));
    CANNOT
}

/// Prints that the run could not be recorded; returns the exit code.
fn not_recorded(message: &str) -> u8 {
    writer::message(format_args!("{message}"));
    CANNOT
}

/// Returns the output of a command, observed for its receipt if one was requested.
fn observed(recording: Option<&Recording>, output: writer::Output) -> writer::Output {
    match recording {
        Some(recording) => recording.observe(output),
        None => output,
    }
}

/// Prints why a program could not be executed. Returns the exit code of a shell in this case (`sh(1p)`).
pub(crate) fn not_executed(program: &str, errno: i32) -> u8 {
    writer::message(format_args!("{program}: {}", std::io::Error::from_raw_os_error(errno)));
    if errno == libc::ENOENT { 127 } else { 126 }
}

/// Prints which requested controls are missing or only partly enforced (`--allow-degraded`).
pub(crate) fn warn_of_weaknesses(controls: &[ControlReport]) {
    for report in controls {
        match &report.status {
            ControlStatus::Missing(error) => writer::message(format_args!("not enforced: {error}")),
            // Partial Landlock support of an old kernel is the same in every run, so only `agentd doctor` reports it.
            ControlStatus::Partial(why) if report.control != Control::Landlock => {
                writer::message(format_args!("partly enforced: {}: {why}", report.control));
            }
            _ => {}
        }
    }
}

/// The parts of a run with `--json` that are reported in addition to the command.
type About<'a> = (&'a mut Comparison, &'a mut ResultObject, &'a mut Option<FlowReader>, &'a mut Option<Recording>);

/// Runs the command and prints the result object. Returns the outcome and the exit code.
async fn in_json(
    sandbox: &Arc<dyn Sandbox>,
    command: Command,
    args: &CommandArgs,
    (selected, required): (&Selected, &[RequireArg]),
    stops: &mut Stops,
    (compared, result, flows, recording): About<'_>,
) -> Result<(Outcome, u8), IsolationError> {
    let capture = command.capture;
    let handle = sandbox.exec_streaming(command).await?;
    compared.start_thread();
    let (output, kept) = writer::keep(capture);
    let output = observed(recording.as_ref(), output);
    let (outcome, stopped) = stream::serve(handle, args, stream::CommandInput::OfAgentd, stops, output).await?;
    // Destroy the sandbox first: the object is complete only when no process is running.
    let destroyed = destroy(sandbox, stops, compared).await;
    let (protected, interrupted) = compared.report(stops).await;
    let network = flows.take().map(|flows| flows.finish(matches!(destroyed, Ok(None))));
    let unrecorded = recording.take().and_then(|recording| {
        let (controls, egress) = (sandbox.controls(), network.as_ref().map(NetworkSummary::recorded));
        let recorded = recording.finish(Ended { selected, controls, egress, ran: Ok(&outcome) });
        recorded.err().map(|error| failure::message(&*error))
    });
    let [stdout, stderr] =
        std::mem::replace(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner), [0; 2].map(HeadTail::new));
    let stream = |kept: HeadTail| {
        let captured = kept.finish();
        let bytes = captured.to_bytes();
        serde_json::json!({
            "text": String::from_utf8_lossy(&bytes),
            "utf8": std::str::from_utf8(&bytes).is_ok(),
            "bytes": captured.total(),
            "omitted": captured.omitted,
        })
    };
    let is_missing = |report: &&ControlReport| matches!(report.status, ControlStatus::Missing(_));
    let degraded: Vec<_> = sandbox.controls().iter().filter(is_missing).map(|report| report.control).collect();
    let object = serde_json::json!({
        "backend": selected.backend.name(),
        "required": required.iter().map(|required| required.name()).collect::<Vec<_>>(),
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "usage": describe(&outcome.usage),
        "enforced": {
            "files": enforced(sandbox, &[Control::Mounts, Control::Landlock]),
            "processes": enforced(sandbox, &[Control::Namespaces, Control::Privileges]),
            "network": enforced(sandbox, &[Control::Network]),
            "syscalls": enforced(sandbox, &[Control::Seccomp]),
            "kernel": selected.proven.as_ref().is_some_and(|proven| proven.has(Claim::Kernel)),
        },
        "network": network.as_ref().map(NetworkSummary::json),
        "controls": sandbox.controls(),
        "degraded": degraded,
        "stdout": stream(stdout),
        "stderr": stream(stderr),
        "error": destroyed.as_ref().err().map(|error| failure::message(error)).or(unrecorded.clone()),
    });
    result.printed = true;
    let later = result_object::print(object, &protected, stops, stopped.or(interrupted).map(|_| stream::DRAIN)).await?;
    let code = match (destroyed, unrecorded, stopped.or(interrupted).or(later)) {
        (Err(error), ..) => not_destroyed(&error),
        (Ok(_), Some(error), _) => not_recorded(&error),
        (Ok(Some(code)), None, _) => code,
        (Ok(None), None, Some(stop)) => stopped_by(stop),
        (Ok(None), None, None) => outcome.shell_code(),
    };
    Ok((outcome, code))
}

fn describe(usage: &Usage) -> serde_json::Value {
    serde_json::json!({
        "wall_us": micros(usage.wall),
        "cpu_user_us": micros(usage.cpu_user),
        "cpu_system_us": micros(usage.cpu_system),
        "peak_memory_bytes": usage.peak_memory,
        "peak_memory_of": if usage.peak_memory_is_group { "cgroup" } else { "largest process" },
    })
}

/// Returns true if all of `controls` were applied, fully or as far as the kernel and the rights of the caller permit.
fn enforced(sandbox: &Arc<dyn Sandbox>, controls: &[Control]) -> bool {
    controls.iter().all(|control| {
        sandbox.controls().iter().any(|report| report.control == *control && !matches!(report.status, ControlStatus::Missing(_)))
    })
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
