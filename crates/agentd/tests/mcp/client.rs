//! A client of MCP that sends what a test writes, and nothing else.

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};
use tempfile::TempDir;

/// A user with a workspace and a data folder.
pub struct User(TempDir);

impl User {
    pub fn new() -> Self {
        let user = Self(tempfile::tempdir().unwrap());
        fs::create_dir(user.path("work")).unwrap();
        user
    }

    /// A user with these policies.
    pub fn with_policies(text: &str) -> Self {
        let user = Self::new();
        let mut folder = user.path("");
        for name in ["data", "policy", "enforced"] {
            folder.push(name);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(folder.join("test.cedar"), text).unwrap();
        fs::set_permissions(folder.join("test.cedar"), fs::Permissions::from_mode(0o600)).unwrap();
        user
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
        command.args(args).current_dir(self.path("work")).env("AGENTD_DATA_DIR", self.path("data")).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the only intent that waits for an approval. Waits until there is one.
    pub fn pending(&self) -> String {
        loop {
            let pending: Value = serde_json::from_str(&self.good(&["approvals", "--json"])).unwrap();
            if let Some(intent) = pending[0]["id"].as_str() {
                return intent.to_owned();
            }
        }
    }
}

/// The revision in which a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// With `initialize`.
    Old(&'static str),
    /// 2026-07-28, without `initialize`.
    New,
}

pub const NEWEST: &str = "2026-07-28";

/// A connection to `agentd mcp`. The process is killed at the end of the test.
pub struct Client {
    pub child: Child,
    pub input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    era: Era,
    capabilities: Value,
    next: u64,
}

impl Client {
    /// Starts `agentd mcp`, and opens the connection.
    pub fn start(user: &User, era: Era) -> Self {
        Self::with(user, era, json!({}), &[])
    }

    /// Starts `agentd mcp` with options, for a client with these capabilities.
    pub fn with(user: &User, era: Era, capabilities: Value, options: &[&str]) -> Self {
        let mut client = Self::raw(user, options);
        (client.era, client.capabilities) = (era, capabilities);
        if let Era::Old(version) = era {
            let info = json!({ "name": "test", "version": "1" });
            let params = json!({ "protocolVersion": version, "capabilities": client.capabilities, "clientInfo": info });
            let result = client.request("initialize", params);
            assert_eq!(result["protocolVersion"], version);
            client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        }
        client
    }

    /// Starts `agentd mcp` without opening the connection.
    pub fn raw(user: &User, options: &[&str]) -> Self {
        let mut command = user.command(&[&["mcp"], options].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, era: Era::Old("2025-11-25"), capabilities: json!({}), next: 1 }
    }

    pub fn send(&mut self, message: &Value) {
        self.send_text(&format!("{message}\n"));
    }

    pub fn send_text(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Sends a request, and returns its id.
    pub fn begin(&mut self, method: &str, mut params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        if self.era == Era::New {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = NEWEST.into();
            meta["io.modelcontextprotocol/clientInfo"] = json!({ "name": "test", "version": "1" });
            meta["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        }
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// Returns the next message of the server.
    pub fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the server has closed the connection");
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(message["jsonrpc"], "2.0", "standard output has protocol only");
        message
    }

    /// Returns the answer of a request, and all messages before it.
    pub fn answer(&mut self, id: u64) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let message = self.receive();
            if message["id"] == id && message.get("method").is_none() {
                return (message, before);
            }
            before.push(message);
        }
    }

    /// Sends a request, and returns its result.
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        let (answer, _) = self.answer(id);
        assert!(answer.get("error").is_none(), "{answer:#}");
        answer["result"].clone()
    }

    /// Sends a request that must fail, and returns the error.
    pub fn error(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        let (answer, _) = self.answer(id);
        assert!(answer.get("result").is_none(), "{answer:#}");
        answer["error"].clone()
    }

    /// Calls a tool, and returns its result.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.request("tools/call", json!({ "name": tool, "arguments": arguments }));
        let text = result["content"][0]["text"].as_str().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(text).unwrap(),
            result["structuredContent"],
            "the text is the structured content"
        );
        result
    }

    /// Runs a script in a sandbox, and returns the structured content.
    pub fn shell(&mut self, script: &str) -> Value {
        self.call("shell_exec_v1", json!({ "command": script }))["structuredContent"].clone()
    }

    /// Closes standard input, and returns the exit code.
    pub fn close(&mut self) -> Option<i32> {
        self.input = None;
        self.child.wait().unwrap().code()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until a file exists.
pub fn wait_for(path: &Path) {
    while !path.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Waits until no process of the host has a command line with `needle`.
pub fn wait_for_end(needle: &str) {
    while runs(needle) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Returns true if a process of the host has a command line with `needle`.
pub fn runs(needle: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline"));
        line.is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(needle))
    })
}
