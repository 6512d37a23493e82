//! Commands that the tests run, in the test's own process: their names are the parameter `command` of `shell.exec.v1`.

use agentd_core::{Captured, EndReason, Outcome, Usage};
use agentd_engine::{EndedIntent, EngineError, Executed, Execution, RunResult};
use agentd_records::ContentDigest;
use agentd_server::{CallEvent, CallInput, CallStreams, ExecutionCall, Executor};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

/// Executes the commands, and reports the names of those that have begun, and of those that were cancelled.
pub struct Commands {
    pub begun: mpsc::UnboundedSender<String>,
    pub cancelled: mpsc::UnboundedSender<String>,
}

#[async_trait]
impl Executor for Commands {
    async fn execute(&self, execution: Execution<'_>, call: ExecutionCall) -> Result<(EndedIntent, Vec<String>), EngineError> {
        let command = execution.valid().intent.parameters["command"].as_str().unwrap().to_owned();
        self.begun.send(command.clone()).unwrap();
        let mut streams = call.streams;
        let cancel = streams.cancel.clone();
        let reason = tokio::select! {
            () = cancel.cancelled() => EndReason::Cancelled,
            () = run(&command, &mut streams) => EndReason::Exited,
        };
        if reason == EndReason::Cancelled {
            self.cancelled.send(command.clone()).unwrap();
        }
        let output = Captured { head: command.clone().into_bytes(), ..Captured::default() };
        let exit_code = (reason == EndReason::Exited).then_some(0);
        let outcome =
            Outcome { reason, exit_code, signal: None, usage: Usage::default(), stdout: output, stderr: Captured::default() };
        let ran = RunResult::Command(Ok(outcome), [command.as_bytes(), b""].map(ContentDigest::of));
        let executed = Executed { backend: "container", controls: &[], evidence: &[], egress: None, ran };
        Ok((execution.finish(executed).await?, vec!["a notice".to_owned()]))
    }
}

async fn run(command: &str, streams: &mut CallStreams) {
    match command {
        "wait" => std::future::pending().await,
        "flood" => loop {
            write(streams, CallEvent::Stdout(Bytes::from_static(&[b'x'; 32 << 10]))).await;
        },
        "cat" => cat(streams).await,
        // Reads nothing, ever.
        "deaf" => {
            write(streams, CallEvent::Stderr(Bytes::from_static(b"deaf"))).await;
            std::future::pending().await
        }
        _ => write(streams, CallEvent::Stdout(Bytes::copy_from_slice(command.as_bytes()))).await,
    }
}

/// Writes what the client sends.
async fn cat(streams: &mut CallStreams) {
    let mut input = streams.input.take().unwrap();
    while let Some(input) = input.recv().await {
        let event = match input {
            CallInput::Stdin(bytes) => CallEvent::Stdout(bytes),
            CallInput::EndOfStdin => return,
            CallInput::Resize(size) => CallEvent::Stderr(format!("{}x{}", size.rows, size.cols).into()),
            CallInput::Signal(signal) => CallEvent::Stderr(format!("signal {signal}").into()),
        };
        write(streams, event).await;
    }
}

async fn write(streams: &CallStreams, event: CallEvent) {
    if let Some(events) = &streams.events
        && events.send(event).await.is_err()
    {
        // The client has gone, and the command is cancelled. A loop of writes would never yield to that.
        std::future::pending().await
    }
}
