//! The operations on files, archives and databases, inside the sandbox of every backend, with the profile `strict`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod attacks;
mod ends;
mod operations;

use agentd::{
    isolation::{Access, Profile, Sandbox, SandboxSpec},
    tool::{CallError, CallOptions, CallOutput, ErrorCode, ToolCall, ToolError, ToolRequest, call},
};
use libtest_mimic::{Arguments, Trial};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn main() {
    support::machine::take_role();
    agentd::isolation::take_role();
    support::machine::register();
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = support::backends()
        .into_iter()
        .flat_map(|backend| {
            [archives::trials(backend), attacks::trials(backend), ends::trials(backend), operations::trials(backend)]
        })
        .flatten()
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Creates the trials of one backend from test functions.
#[macro_export]
macro_rules! table {
    ($backend:expr, $($test:ident),+ $(,)?) => {
        vec![$($crate::support::trial(format!("{}::{}", $backend, stringify!($test)), move || $test($backend))),+]
    };
}

/// A sandbox with the profile `strict`, and a directory in it that a test can write.
struct Place {
    path: PathBuf,
    /// The granted directory, if the directory is one.
    granted: Option<tempfile::TempDir>,
    sandbox: Arc<dyn Sandbox>,
}

impl Place {
    /// Creates a sandbox with a granted directory.
    async fn new(backend: &str) -> Self {
        let directory = support::directory();
        let grants = vec![support::grant(directory.path(), Access::ReadWrite)];
        let spec = SandboxSpec { grants, profile: Profile::Strict, ..SandboxSpec::default() };
        let sandbox = support::with(backend, spec).await;
        Self { path: directory.path().to_owned(), granted: Some(directory), sandbox }
    }

    /// Creates a sandbox with a directory of its own. Machines copy nothing from it to the host.
    async fn private(backend: &str) -> Self {
        let spec = SandboxSpec { profile: Profile::Strict, ..SandboxSpec::default() };
        let sandbox = support::with(backend, spec).await;
        // Without a boundary, this is a directory of the host.
        let path = PathBuf::from(format!("/tmp/{}", sandbox.id()));
        let made = support::sh(&sandbox, &format!("mkdir {}", path.display())).await;
        assert_eq!(made.exit_code, Some(0), "{made:?}");
        Self { path, granted: None, sandbox }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Carries out an operation that cannot leave the directory. Relative paths begin there.
    async fn call(&self, request: ToolRequest, content: &[u8]) -> Result<CallOutput, ToolError> {
        let whole = ToolCall { within: Some(self.path().into()), request };
        match call(&*self.sandbox, &whole, content, CallOptions::default()).await {
            Err(CallError::Tool(error, _)) => Err(*error),
            other => Ok(other.unwrap()),
        }
    }

    async fn code(&self, request: ToolRequest) -> ErrorCode {
        self.call(request, &[]).await.unwrap_err().code
    }

    /// Runs a shell script of a payload in the directory.
    async fn payload(&self, text: &str) {
        let command = agentd::isolation::Command { cwd: Some(self.path().to_owned()), ..support::script(text) };
        let outcome = self.sandbox.exec(command).await.unwrap();
        assert_eq!(outcome.exit_code, Some(0), "{text}: {outcome:?}");
    }

    async fn end(self) {
        if self.granted.is_none() {
            self.payload("rm -r \"$PWD\"").await;
        }
        self.sandbox.destroy().await.unwrap();
    }
}
