//! A client that repeats each request, with the same key, until it has the outcome.

use serde_json::{Value, json};
use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

/// What a client knows of an intent that it has submitted.
pub struct Answered {
    pub key: String,
    pub intent: String,
    pub status: String,
    /// True if the command has ended with the exit code 0.
    pub completed: bool,
}

pub struct Client<'a> {
    pub number: usize,
    pub socket: PathBuf,
    pub workspace: PathBuf,
    /// Counts the commands of all clients that have ended with the exit code 0.
    pub completed: &'a AtomicUsize,
}

impl Client<'_> {
    /// Submits intents until `stop`. Returns what was answered.
    pub fn submit_until(&self, stop: &AtomicBool) -> Vec<Answered> {
        let mut all = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let key = format!("{}-{}", self.number, all.len());
            let object = self.outcome(&key);
            let text = |member: &str| object[member].as_str().unwrap_or_else(|| panic!("{key}: {object:#}")).to_owned();
            let completed = object["exit_code"] == 0;
            self.completed.fetch_add(usize::from(completed), Ordering::SeqCst);
            all.push(Answered { intent: text("intent"), status: text("status"), completed, key });
        }
        all
    }

    /// Returns the object of the intent with this key. Submits it again after each lost connection.
    pub fn outcome(&self, key: &str) -> Value {
        loop {
            match post(&self.socket, key, &self.request(key)) {
                Ok((200, object)) => return object,
                Ok((status, body)) => panic!("{key}: {status}: {body:#}"),
                // The daemon is dead, or starts.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Returns the request of a key. An intent leaves a mark of each of its executions in the workspace.
    fn request(&self, key: &str) -> Value {
        let script = match key.len() % 3 {
            0 => format!("echo {key} >> executions"),
            1 => format!("echo {key} >> executions; sleep 0.02"),
            _ => format!("sleep 0.02; echo {key} >> executions"),
        };
        let workspace = json!({ "path": self.workspace });
        json!({ "capability": "shell.exec.v1", "parameters": { "command": script }, "workspace": workspace })
    }
}

/// Sends a request on a connection of its own. Returns the status and the body.
///
/// # Errors
/// The connection ended before the response.
fn post(socket: &Path, key: &str, body: &Value) -> io::Result<(u16, Value)> {
    let body = body.to_string();
    let mut stream = UnixStream::connect(socket)?;
    let head = "POST /v1/intents HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    write!(stream, "{head}\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    Ok((status, body))
}
