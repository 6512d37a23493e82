//! Captured execs: a command runs to its end and its output is kept.

use super::{
    running::Exec,
    transport::{End, Input, Output, Pipes, Transport},
};
use crate::head_tail::HeadTail;
use agentd_core::{Command, IsolationError, Outcome};
use std::{convert::Infallible, future::pending};

/// The number of bytes that are kept of each output stream if the command specifies no number.
const DEFAULT_CAPTURE: u64 = 1 << 20;

/// Checks that a command can be captured.
///
/// # Errors
/// [`IsolationError::Invalid`] for a command with a terminal.
pub fn check(command: &Command) -> Result<(), IsolationError> {
    if command.pty.is_some() {
        return Err(IsolationError::Invalid {
            what: "command".to_owned(),
            reason: "a command with a terminal cannot be captured — start it with exec_streaming()".to_owned(),
        });
    }
    Ok(())
}

/// Runs a started exec to its end. Writes `input` to its standard input, and keeps up to `capture` bytes of each output stream
/// (0: the default, 1 MiB).
///
/// # Errors
/// A command that could not be started, a protocol violation, or the loss of the sandbox.
pub async fn run_to_end<T: Transport>(
    mut exec: Exec<T>,
    Pipes { input: stdin, outputs }: Pipes<T>,
    input: &[u8],
    capture: u64,
) -> Result<Outcome, IsolationError> {
    let feed = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).await;
        }
        pending::<Infallible>().await
    };
    let outcome = tokio::select! {
        outcome = collect(&mut exec, outputs, capture) => outcome?,
        never = feed => match never {},
    };
    exec.conclude(outcome).await
}

async fn collect<T: Transport>(
    exec: &mut Exec<T>,
    mut outputs: [Option<T::Output>; 2],
    capture: u64,
) -> Result<Outcome, IsolationError> {
    let budget = if capture == 0 { DEFAULT_CAPTURE } else { capture };
    let mut kept = [HeadTail::new(budget), HeadTail::new(budget)];
    let mut buffers = [Vec::new(), Vec::new()];
    let end: End = loop {
        let ([stdout, stderr], [out, err]) = (&mut outputs, &mut buffers);
        // `select!` is not biased here: unending output must not delay the end of the command.
        let stream = tokio::select! {
            () = read(stdout, out) => 0,
            () = read(stderr, err) => 1,
            end = exec.step() => match end? {
                Some(end) => break end,
                None => continue,
            },
        };
        kept[stream].push(&buffers[stream]);
        exec.count_output(buffers[stream].len());
    };
    // The process tree has ended, and all its output has arrived. Bytes that arrive from now on are not output of the command.
    for (kept, output) in kept.iter_mut().zip(outputs.iter_mut()) {
        let ([buffer, _], Some(output)) = (&mut buffers, output) else { continue };
        let mut left = output.arrived();
        while left > 0 && output.read_now(buffer) {
            left = left.saturating_sub(buffer.len());
            kept.push(buffer);
            exec.count_output(buffer.len());
        }
    }
    let mut outcome = exec.outcome(&end);
    [outcome.stdout, outcome.stderr] = kept.map(HeadTail::finish);
    Ok(outcome)
}

/// Reads the next bytes into `buffer`. Never completes once the stream has ended.
async fn read<O: Output>(output: &mut Option<O>, buffer: &mut Vec<u8>) {
    if let Some(open) = output {
        if open.read(buffer).await {
            return;
        }
        *output = None;
    }
    pending().await
}
