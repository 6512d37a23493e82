//! Runs the command of an intent in a named sandbox.

use super::{
    super::{
        super::{
            args::RunArgs,
            failure::{Failure, message},
            protection, request,
            stops::Stops,
        },
        command::{CommandCaller, run},
        executed::{ExecutedIntent, end_cancelled},
        options::ExecutionOptions,
        sandbox::run_args,
    },
    own_sandboxes::{OwnSandboxes, forbidden},
    settings::BACKEND,
};
use agentd_core::{Command, ControlReport, ExecHandle};
use agentd_daemon::DaemonError;
use agentd_engine::{CommandLine, EngineError, Executed, Execution, RunResult};
use agentd_isolation::layered::LayeredError;
use agentd_records::ContentDigest;
use agentd_sandboxes::Record;
use std::future::ready;

/// Runs a command, and records its end. A request to stop ends the command.
///
/// # Errors
/// The end of the intent cannot be recorded.
pub(in super::super) async fn execute(
    execution: Execution<'_>,
    (name, line): (&str, &CommandLine),
    options: ExecutionOptions<'_>,
    stops: &mut Stops,
) -> Result<ExecutedIntent, EngineError> {
    let own = match OwnSandboxes::open(&execution, options.reach.clone()).await {
        Ok(own) => own,
        Err(failure) => return Ok(ExecutedIntent::not_begun(execution.fail(&message(&*failure)).await?)),
    };
    let record = match own.owner.find(&own.store, name) {
        Ok(record) => record,
        Err(unknown) => return Ok(ExecutedIntent::not_begun(execution.fail_with(unknown.code, &unknown.message).await?)),
    };
    if let Some(excess) = forbidden(&execution, &record) {
        return Ok(ExecutedIntent::not_begun(execution.refuse_sandbox(excess).await?));
    }
    if line.stream_stdin && options.input.is_none() && !options.caller.is_here() {
        let text = "stdin_stream: the transport sends no input to a running command — use a stream of gRPC, or leave it out";
        return Ok(ExecutedIntent::not_begun(execution.fail(text).await?));
    }
    let prepared = prepared(&execution, &record).map_err(|failure| message(&*failure));
    let (args, mut command) = match prepared {
        Ok(prepared) => prepared,
        Err(message) => return Ok(ExecutedIntent::not_begun(execution.fail(&message).await?)),
    };
    let caller = CommandCaller::new(options, execution.valid());
    caller.set_streams(line, &mut command);
    let is_proven = own.selected.proven.is_some();
    let started = tokio::select! {
        biased;
        _ = stops.next() => return Ok(ExecutedIntent::not_begun(end_cancelled(execution).await?)),
        started = own.client.exec(&record.name, command, is_proven) => started,
    };
    let started = match started {
        Ok(started) => started,
        Err(DaemonError::Layered(LayeredError::Isolation(error))) => {
            // The sandbox runs, and the program does not exist or cannot be executed.
            let ran = RunResult::Command(Err(error), [ContentDigest::of(b""), ContentDigest::of(b"")]);
            return finish(execution, &own, (ran, &[]), (false, Vec::new())).await;
        }
        Err(error) => {
            let failed = own.failed(&error);
            return Ok(ExecutedIntent::not_begun(execution.fail_with(failed.code, &failed.message).await?));
        }
    };
    let mut notices: Vec<String> = protection::lines(started.before()).collect();
    let (after, controls) = (started.after(), started.controls().to_vec());
    let was_live = caller.is_live();
    let handle: Box<dyn ExecHandle> = Box::new(started);
    let ran = run(ready(Ok(handle)), line, &args.command, caller, stops).await;
    notices.extend(protection::lines(&after.report()));
    finish(execution, &own, (ran, &controls), (was_live, notices)).await
}

/// Returns the arguments of a command in a sandbox, and the command.
fn prepared(execution: &Execution<'_>, record: &Record) -> Result<(RunArgs, Command), Failure> {
    let mut args = run_args(execution, Some(BACKEND))?;
    let is_streamed = std::mem::replace(&mut args.command.interactive, false);
    let env = record.about.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    // A relative path is relative to the default directory of the sandbox's commands.
    let cwd = args.command.cwd.as_ref().map_or_else(|| record.about.cwd.clone(), |cwd| record.about.cwd.join(cwd));
    let command = request::command(&args.command, env, cwd)?;
    args.command.interactive = is_streamed;
    Ok((args, command))
}

async fn finish(
    execution: Execution<'_>,
    own: &OwnSandboxes,
    (ran, controls): (RunResult, &[ControlReport]),
    (was_live, notices): (bool, Vec<String>),
) -> Result<ExecutedIntent, EngineError> {
    let evidence = own.selected.proven.as_ref().map_or(&[][..], |proven| proven.evidence.as_slice());
    let executed = Executed { backend: BACKEND, controls, evidence, egress: None, ran };
    Ok(ExecutedIntent { ended: execution.finish(executed).await?, was_live, notices, stopped: None })
}
