//! Runs the program under test.

use agentd::isolation::{FirecrackerBackend, GondolinBackend, GondolinConfig, IsolationBackend, create_backend};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// The backends whose sandboxes are virtual machines.
pub const MACHINES: [&str; 2] = [GondolinBackend::NAME, FirecrackerBackend::NAME];

/// The backends under test that can limit the network.
pub fn backends() -> Vec<&'static str> {
    let named = std::env::var("AGENTD_TEST_BACKENDS").unwrap_or_else(|_| "linux-native container".to_owned());
    let all = ["linux-native", "container"].into_iter().chain(MACHINES);
    all.filter(|name| named.split_whitespace().any(|wanted| wanted == *name)).collect()
}

/// Creates a backend by name.
pub fn backend(name: &str) -> Arc<dyn IsolationBackend> {
    if name == GondolinBackend::NAME {
        let mut config = GondolinConfig::in_data_dir(&data());
        config.start_limit = Duration::from_secs(240);
        return Arc::new(GondolinBackend::with_config(&std::env::temp_dir(), config));
    }
    create_backend(name, &std::env::temp_dir()).unwrap()
}

/// Returns the data directory with the files of virtual machines.
fn data() -> PathBuf {
    let named = ["AGENTD_DATA_DIR", "AGENTD_TEST_DATA"].into_iter().find_map(std::env::var_os).map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/agentd"))
}

/// Returns the program; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
pub fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A workspace with the certificate of the tests' authority, and a home directory.
pub struct EgressDir {
    root: TempDir,
}

impl EgressDir {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        fs::create_dir(root.path().join("work")).unwrap();
        // A command could change the first file, so agentd reads only the second.
        crate::tls::write_authority(&root.path().join("work/ca.pem"));
        crate::tls::write_authority(&root.path().join("ca.pem"));
        Self { root }
    }

    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// A path outside of the workspace.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `agentd run` with the options.
    pub fn command(&self, backend: &str, options: &[&str], argv: &[&str]) -> Command {
        let mut run = self.program(backend);
        run.args(["run", "--backend", backend, "--no-host-tools", "--no-host-caches"]).args(options).arg("--").args(argv);
        run
    }

    /// `agentd call` of a capability with the options, on a host that trusts the authority of the tests.
    pub fn call(&self, backend: &str, capability: &str, parameters: &Value, options: &[&str]) -> Command {
        let mut call = self.program(backend);
        call.args(["call", capability, "--backend", backend, "--json", "--params", &parameters.to_string()]).args(options);
        call.env("AGENTD_DATA_DIR", self.outside("data")).env("SSL_CERT_FILE", self.outside("ca.pem"));
        call
    }

    fn program(&self, backend: &str) -> Command {
        let mut run = Command::new(program());
        run.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", self.root.path().join("home"));
        run.env("TMPDIR", self.root.path()).current_dir(self.work()).stdin(Stdio::null());
        if MACHINES.contains(&backend) {
            run.env("AGENTD_DATA_DIR", data());
        }
        run
    }

    /// As [`EgressDir::command`], on a host that trusts the authority of the tests.
    pub fn trusting(&self, backend: &str, options: &[&str], argv: &[&str]) -> Command {
        let mut run = self.command(backend, options, argv);
        run.env("SSL_CERT_FILE", self.outside("ca.pem"));
        run
    }

    pub fn run(&self, backend: &str, options: &[&str], argv: &[&str]) -> Output {
        self.command(backend, options, argv).output().unwrap()
    }

    /// Runs `agentd run` with the options through another program, whose last step is to execute its arguments.
    pub fn run_by(&self, by: &[&str], backend: &str, options: &[&str], argv: &[&str]) -> Output {
        let run = self.command(backend, options, argv);
        let mut command = Command::new(by[0]);
        command.args(&by[1..]).arg(run.get_program()).args(run.get_args()).env_clear();
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(self.work());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a Python script, which must succeed, with these network grants. Returns the output of the script, and the messages of
    /// agentd.
    pub fn python(&self, backend: &str, net: &str, script: &str) -> (String, String) {
        let output =
            self.run(backend, &["--net", &format!("allow={net}")], &["/usr/bin/python3", "-c", &[TOOLS, script].concat()]);
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "{script}\n{out}\n{err}");
        (out, err)
    }
}

/// Functions of the scripts. `attempt` prints the result of a connection: the data, or the name of the error.
pub const TOOLS: &str = r#"
import errno, os, socket, ssl, struct, sys
def error(e):
    if isinstance(e, socket.gaierror): return 'no such name'
    if isinstance(e, ssl.SSLError): return 'tls'
    return errno.errorcode.get(e.errno, type(e).__name__) if isinstance(e, OSError) else repr(e)
def connect(host, port):
    s = socket.create_connection((host, port), 60)
    return s
def attempt(host, port, data=b'x'):
    try:
        s = connect(host, port)
        s.sendall(data)
        got = s.makefile('rb').readline() if b'HTTP/' in data else s.recv(100)
        print(host, port, got.decode().rstrip() if got else 'end')
    except Exception as e:
        print(host, port, error(e))
def secure(host, port, name):
    context = ssl.create_default_context(cafile='ca.pem')
    try:
        with context.wrap_socket(connect(host, port), server_hostname=name) as s:
            s.sendall(b'GET /x HTTP/1.1\r\nHost: h\r\n\r\n')
            print(name, s.makefile('rb').readline().decode().rstrip())
    except Exception as e:
        print(name, error(e))
"#;
