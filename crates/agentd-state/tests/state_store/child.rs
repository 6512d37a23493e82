//! A test that runs again in another process.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

/// Environment variable with the folder of the store, which makes a test the other process.
const FOLDER: &str = "AGENTD_TEST_STATE";

/// Returns the folder if this process is the other process of a test.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Sends a line to the test. One write: a line is complete or missing.
pub fn send(line: &str) {
    std::io::stdout().write_all(format!("\n> {line}\n").as_bytes()).unwrap();
}

/// The other process.
pub struct OtherProcess {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl OtherProcess {
    pub fn start(test: &str, folder: &Path) -> Self {
        Self::start_with(&[], test, folder)
    }

    /// Starts the process by a program with arguments, which executes the rest of its arguments.
    pub fn start_with(program: &[&str], test: &str, folder: &Path) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut words = program.iter().map(|word| OsStr::new(*word)).chain([own.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["--exact", test, "--nocapture", "--quiet"]).env(FOLDER, folder);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Returns the next line that the process sends; `None` after its end.
    pub fn recv(&mut self) -> Option<String> {
        self.lines.by_ref().map(Result::unwrap).find_map(|line| Some(line.strip_prefix("> ")?.to_owned()))
    }

    /// Kills the process, and returns the lines that it has sent before.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let rest = std::iter::from_fn(|| self.recv()).collect();
        self.child.wait().unwrap();
        rest
    }

    /// Waits for the end of the process, which must succeed, and returns the lines that it has sent.
    pub fn join(mut self) -> Vec<String> {
        let lines: Vec<_> = std::iter::from_fn(|| self.recv()).collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {lines:?}");
        lines
    }
}
