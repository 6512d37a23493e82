//! What the suites share: a runtime for each test, commands in few words, and the backends.
#![allow(dead_code, reason = "each suite uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

pub mod inventory;
pub mod layers;
pub mod machine;

use agentd_isolation::{
    Access, Command, FirecrackerBackend, GondolinBackend, GondolinConfig, Grant, IsolationBackend, Outcome, Sandbox, SandboxSpec,
    create_backend,
};
use libtest_mimic::{Failed, Trial};
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// No test takes longer, where thousands of sandboxes are made under emulation.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// A test that runs in a runtime of its own. It has a thread beside the test's, which may wait for what the bytes of a stream come by.
pub fn trial<F, Fut>(name: String, test: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(Failed::from)?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await }).map_err(|_| Failed::from("it took too long"))
    })
}

/// The backends under test: what runs on any machine, or those that `AGENTD_TEST_BACKENDS` names, separated by blanks. `test-machine` is what
/// all virtual machines have in common, the agent in a machine, which only root can be. [`layers::NAME`] is tested where `container` is.
pub fn backends() -> Vec<&'static str> {
    let Ok(named) = std::env::var("AGENTD_TEST_BACKENDS") else {
        return ANYWHERE.into_iter().filter(|name| possible(name)).collect();
    };
    let named: Vec<&str> = named.split_whitespace().collect();
    let all = ANYWHERE.into_iter().chain(["firecracker"]);
    let asked = |name: &str| named.contains(&if name == layers::NAME { "container" } else { name });
    all.filter(|name| asked(name) && possible(name)).collect()
}

const ANYWHERE: [&str; 6] = ["host-direct", "linux-native", "container", layers::NAME, "gondolin", machine::NAME];

fn possible(name: &str) -> bool {
    name != machine::NAME || rustix::process::geteuid().is_root()
}

/// A backend by name.
pub fn backend(name: &str) -> Arc<dyn IsolationBackend> {
    match name {
        GondolinBackend::NAME => gondolin(),
        layers::NAME => layers::Layers::new(),
        _ => create_backend(name, &std::env::temp_dir()).unwrap(),
    }
}

/// The Gondolin that `./test` sets up.
pub fn gondolin() -> Arc<GondolinBackend> {
    GondolinBackend::new(GondolinConfig::below(&data()), &std::env::temp_dir())
}

/// Where it is.
pub fn data() -> PathBuf {
    let data = std::env::var_os("AGENTD_TEST_DATA").map(PathBuf::from);
    data.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/agentd"))
}

/// A sandbox with nothing granted.
pub async fn bare(name: &str) -> Arc<dyn Sandbox> {
    with(name, SandboxSpec::default()).await
}

/// A sandbox of a spec.
pub async fn with(name: &str, spec: SandboxSpec) -> Arc<dyn Sandbox> {
    backend(name).create_sandbox(spec).await.unwrap()
}

/// A grant.
pub fn grant(path: &Path, access: Access) -> Grant {
    Grant { path: path.to_path_buf(), target: None, access, protect: Vec::new() }
}

/// A command with a usual path.
pub fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(Into::into).collect(),
        env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()), ("HOME".into(), "/home/agent".into())],
        ..Command::default()
    }
}

/// A shell script.
pub fn script(text: &str) -> Command {
    command(&["/bin/sh", "-c", text])
}

/// Runs a script.
pub async fn sh(sandbox: &Arc<dyn Sandbox>, text: &str) -> Outcome {
    sandbox.exec(script(text)).await.unwrap()
}

/// The output as text.
pub fn out(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stdout.to_bytes()).into_owned()
}

/// A directory that the caller alone can enter, below a place that sandboxes cover or keep private.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Whether a process whose command line contains `needle` lives, seen from the host, or from inside where a machine has its own.
pub async fn lives(sandbox: &Arc<dyn Sandbox>, needle: &str) -> bool {
    if ![GondolinBackend::NAME, FirecrackerBackend::NAME].iter().any(|name| sandbox.id().0.starts_with(name)) {
        return runs(needle);
    }
    // What looks for it must not have it in its own command line.
    let mut look = script(
        "for line in /proc/[0-9]*/cmdline; do case $(tr '\\0' ' ' <$line 2>/dev/null) in *\"$NEEDLE\"*) exit 0 ;; esac; done; exit 1",
    );
    look.env.push(("NEEDLE".into(), needle.into()));
    sandbox.exec(look).await.unwrap().exit_code == Some(0)
}

/// A time that was chosen for machines which are not emulated; in the lab, one that is by so much longer.
pub fn slow(time: Duration) -> Duration {
    let factor = std::env::var("AGENTD_SUITE_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    time * factor
}

/// Whether a process whose command line contains `needle` lives on the host.
pub fn runs(needle: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(needle)
        })
    })
}
