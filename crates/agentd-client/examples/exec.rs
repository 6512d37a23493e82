//! Runs a shell command by the daemon: `cargo run -p agentd-client --example exec -- SOCKET 'COMMAND'`. The output is printed
//! while the command runs, and standard input is sent to the command.

use agentd_client::{Client, ClientError, CommandInput, ExecutionEvent, request};
use bytes::Bytes;
use std::{error::Error, process::ExitCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, command] = arguments.as_slice() else { return Err("usage: exec SOCKET COMMAND".into()) };
    let client = Client::connect(socket).await?;
    let parameters = serde_json::json!({ "command": command, "stdin_stream": true });
    let mut execution = client.execute_stream(request("shell.exec.v1", &parameters)?).await?;
    if let Some(input) = execution.take_input() {
        tokio::spawn(send(input));
    }
    while let Some(event) = execution.next().await? {
        match event {
            ExecutionEvent::Held(held) => eprintln!("waits for `agentd approve {}` until {}", held.intent, held.expires),
            ExecutionEvent::Notice(text) => eprintln!("{text:?}"),
            ExecutionEvent::Stdout(bytes) => {
                tokio::io::stdout().write_all(&bytes).await?;
                tokio::io::stdout().flush().await?;
            }
            ExecutionEvent::Stderr(bytes) => tokio::io::stderr().write_all(&bytes).await?,
            ExecutionEvent::Ended(outcome) => {
                if let Some(error) = &outcome.error {
                    eprintln!("{}", error.message);
                }
                // As `agentd call`: 125 if there is no exit code.
                let code = outcome.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125);
                return Ok(ExitCode::from(code));
            }
            _ => {}
        }
    }
    Err(ClientError::Incomplete.into())
}

/// Sends standard input. Its end is sent when the value is dropped.
async fn send(input: CommandInput) {
    let (mut stdin, mut buffer) = (tokio::io::stdin(), vec![0; 16 << 10]);
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if input.stdin(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
            return;
        }
    }
}
