//! A daemon that listens on a port of the loopback interface.

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
};
use tempfile::TempDir;

/// Everybody may do everything; what the service `asks` requests waits for an approval.
const POLICY: &str = r#"
@id("all") permit (principal, action, resource);
@id("ask") @approval("ask the team") permit (principal == Service::"asks", action, resource);
"#;

pub struct Remote {
    pub root: TempDir,
    pub daemon: Child,
    /// The lines on standard error. A thread reads them, so that the daemon never waits for the test.
    messages: mpsc::Receiver<String>,
    pub url: String,
}

pub fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A folder for a daemon, with a workspace and a policy.
pub fn folder() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in ["work", "other"] {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let policies = root.path().join("data/policy/enforced");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&policies).unwrap();
    private(&policies.join("test.cedar"), POLICY);
    root
}

/// Writes a file that nobody else may read.
pub fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Returns a command of agentd with the data of a folder.
pub fn agentd(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(root).env("AGENTD_DATA_DIR", root.join("data")).stdin(Stdio::null());
    command
}

impl Remote {
    /// Starts a daemon without TLS.
    pub fn new() -> Self {
        Self::with(folder(), &[], "off")
    }

    pub fn with(root: TempDir, options: &[&str], log: &str) -> Self {
        let work = root.path().join("work").display().to_string();
        let arguments = [&["serve", "--listen", "127.0.0.1:0", "--workspace", &work], options].concat();
        let mut daemon = agentd(root.path(), &arguments).env("AGENTD_LOG", log).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut url = None;
        while url.is_none() {
            let line = messages.recv().expect("the daemon has ended");
            url = line.split_once("serving on http").map(|(_, rest)| format!("http{rest}"));
        }
        Self { root, daemon, messages, url: url.unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn address(&self) -> SocketAddr {
        self.url.rsplit_once("//").unwrap().1.parse().unwrap()
    }

    /// Runs a command of agentd that must succeed. Returns its output.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = agentd(self.root.path(), arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Creates a key.
    pub fn key(&self, name: &str, options: &[&str]) -> String {
        self.good(&[&["key", "create", name, "--expires", "1h"], options].concat()).trim_end().to_owned()
    }

    pub fn curl(&self, key: Option<&str>, path: &str, options: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-buffer", "--write-out", "\n%{http_code}"]);
        if let Some(key) = key {
            command.arg("--header").arg(format!("Authorization: Bearer {key}"));
        }
        command.args(options).arg(format!("{}{path}", self.url)).stdout(Stdio::piped());
        command
    }

    /// Returns body and status of a request.
    pub fn get(&self, key: Option<&str>, path: &str, options: &[&str]) -> (String, String) {
        answer(&self.curl(key, path, options).output().unwrap())
    }

    pub fn post(&self, key: &str, path: &str, body: &Value, options: &[&str]) -> Command {
        let (body, json) = (body.to_string(), "Content-Type: application/json");
        self.curl(Some(key), path, &[&["--header", json, "--data-binary", &body], options].concat())
    }

    /// Returns a request to run a command in the workspace.
    pub fn shell(&self, key: &str, script: &str, options: &[&str]) -> Command {
        let workspace = json!({ "path": self.path("work").canonicalize().unwrap() });
        let body = json!({ "capability": "shell.exec.v1", "parameters": { "command": script }, "workspace": workspace });
        self.post(key, "/v1/intents", &body, options)
    }

    /// Calls a tool by MCP.
    pub fn tool(&self, key: &str, name: &str, arguments: &Value) -> Value {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        });
        let params = json!({ "name": name, "arguments": arguments, "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let tool = format!("Mcp-Name: {name}");
        let headers =
            ["Accept: application/json, text/event-stream", "MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", &tool];
        let options: Vec<&str> = headers.iter().flat_map(|header| ["--header", *header]).collect();
        let (text, status) = answer(&self.post(key, "/mcp", &body, &options).output().unwrap());
        assert_eq!(status, "200", "{text}");
        let line = text.lines().rev().find_map(|line| line.strip_prefix("data: ").or(line.starts_with('{').then_some(line)));
        let reply: Value = serde_json::from_str(line.unwrap()).unwrap();
        reply["result"]["structuredContent"].clone()
    }

    /// Returns a connection on which nothing was sent.
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).unwrap()
    }

    /// Sends bytes, and returns everything that the daemon answers until it closes the connection or has sent a whole head.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.daemon.id().to_string()]).status().unwrap().success());
    }

    pub fn message(&self) -> String {
        self.messages.recv().unwrap()
    }

    /// Ends the daemon. Returns everything that it has printed since its start.
    pub fn end(mut self) -> (TempDir, String) {
        self.signal("TERM");
        assert!(self.daemon.wait().unwrap().success());
        let rest: String = self.messages.iter().map(|line| line + "\n").collect();
        (std::mem::replace(&mut self.root, tempfile::tempdir().unwrap()), rest)
    }

    /// Waits until a command has created a file in the workspace.
    pub fn wait_for(&self, name: &str) {
        while !self.path("work").join(name).exists() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Returns body and status of a response.
pub fn answer(output: &Output) -> (String, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (body.to_owned(), status.to_owned())
}

/// Returns the object of a response with the status 200.
pub fn object(output: &Output) -> Value {
    let (body, status) = answer(output);
    assert_eq!(status, "200", "{body}");
    serde_json::from_str(&body).unwrap()
}
