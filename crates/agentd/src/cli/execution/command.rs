//! Runs the command of an intent, whose output is digested, partly kept, and passed to the caller while it is written.

use super::{
    super::{
        args::CommandArgs,
        caller_input::CallerInput,
        receipt::OutputDigests,
        stops::Stops,
        stream::{self, CommandInput},
        terminal,
        writer::{self, Output},
    },
    options::ExecutionOptions,
};
use agentd_core::{Command, ExecHandle, IsolationError, Outcome, PtySize, StdinSource};
use agentd_engine::{CommandLine, RunResult, ValidIntent};
use agentd_server::CallInput;
use std::sync::PoisonError;
use tokio::sync::mpsc;

/// The number of bytes of each stream that a result has.
const CAPTURE: u64 = 256 << 10;

/// The size of a terminal whose caller states none, and has none.
const TERMINAL: PtySize = PtySize { rows: 24, cols: 80 };

/// The caller of a command.
pub(super) struct CommandCaller {
    /// Where the output goes while it is written.
    live: Option<Output>,
    input: Option<mpsc::Receiver<CallInput>>,
    /// The size of the caller's terminal.
    terminal: PtySize,
}

impl CommandCaller {
    /// Returns the caller of an intent.
    pub fn new(options: ExecutionOptions<'_>, valid: &ValidIntent<'_>) -> Self {
        let terminal = if options.caller.is_here() { terminal::size() } else { TERMINAL };
        Self { live: options.caller.output(valid), input: options.input, terminal }
    }

    /// Returns true if the caller gets the output while it is written.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Sets the streams of a command as its command line requests.
    pub fn set_streams(&self, line: &CommandLine, command: &mut Command) {
        let is_empty = line.stdin.is_empty() && !line.stream_stdin;
        command.stdin = if is_empty { StdinSource::Null } else { StdinSource::Stream };
        let own = self.terminal;
        command.pty = line
            .pty
            .map(|requested| PtySize { rows: requested.rows.unwrap_or(own.rows), cols: requested.cols.unwrap_or(own.cols) });
    }
}

/// Runs a command that is being started. A request to stop ends it.
pub(super) async fn run(
    started: impl Future<Output = Result<Box<dyn ExecHandle>, IsolationError>>,
    line: &CommandLine,
    args: &CommandArgs,
    CommandCaller { live, input, .. }: CommandCaller,
    stops: &mut Stops,
) -> RunResult {
    let is_raw = live.is_some() && input.is_none() && line.pty.is_some() && line.stream_stdin;
    let input = match input {
        Some(input) => {
            CommandInput::OfCaller(CallerInput { receiver: input, first: line.stdin.clone(), is_streamed: line.stream_stdin })
        }
        None if line.stream_stdin => CommandInput::OfAgentd,
        None => CommandInput::Bytes(line.stdin.clone()),
    };
    let digests = OutputDigests::default();
    let ran = async {
        let handle = started.await?;
        let (output, kept) = match live {
            Some(live) => writer::keep_copy(CAPTURE, live),
            None => writer::keep(CAPTURE),
        };
        let raw = if is_raw { terminal::RawMode::enter() } else { None };
        let (outcome, _) = stream::serve(handle, args, input, stops, digests.observe(output)).await?;
        drop(raw);
        let [stdout, stderr] = std::mem::replace(
            &mut *kept.lock().unwrap_or_else(PoisonError::into_inner),
            [0; 2].map(agentd_isolation::HeadTail::new),
        );
        Ok::<_, IsolationError>(Outcome { stdout: stdout.finish(), stderr: stderr.finish(), ..outcome })
    };
    let ran = ran.await;
    RunResult::Command(ran, digests.finish())
}
