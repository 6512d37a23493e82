//! Code that the suites share: a runtime for each test, short constructors of commands, and the backends.
#![allow(dead_code, reason = "each suite uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

pub mod inventory;
pub mod layers;
pub mod machine;

use agentd::isolation::{
    Access, Command, FirecrackerBackend, GondolinBackend, GondolinConfig, Grant, IsolationBackend, Limits, Outcome, Sandbox,
    SandboxSpec, create_backend,
};
use libtest_mimic::{Arguments, Failed, Trial};
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The time limit of a test. Creating thousands of sandboxes in an emulated machine on a shared processor took 400 s.
pub const TIMEOUT: Duration = Duration::from_secs(900);

/// Creates a test that runs in its own runtime with a worker thread, so that the test itself may block while it reads a stream.
pub fn trial<F, Fut>(name: String, test: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(Failed::from)?;
        runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, test()).await })
            .map_err(|_| Failed::from("not finished within the time limit"))
    })
}

/// Runs the tests of a suite that counts processes and files of the host: one at a time.
pub fn run_one_at_a_time(trials: Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit()
}

/// Returns the backends under test: those that run on any host, or those in `AGENTD_TEST_BACKENDS`, separated by blanks.
/// `test-machine` needs root. [`layers::NAME`] is tested together with `container`.
pub fn backends() -> Vec<&'static str> {
    let Ok(named) = std::env::var("AGENTD_TEST_BACKENDS") else {
        return ANYWHERE.into_iter().filter(|name| possible(name)).collect();
    };
    let named: Vec<&str> = named.split_whitespace().collect();
    let all = ANYWHERE.into_iter().chain(["firecracker"]);
    let requested = |name: &str| named.contains(&if name == layers::NAME { "container" } else { name });
    all.filter(|name| requested(name) && possible(name)).collect()
}

const ANYWHERE: [&str; 6] = ["host-direct", "linux-native", "container", layers::NAME, "gondolin", machine::NAME];

fn possible(name: &str) -> bool {
    name != machine::NAME || rustix::process::geteuid().is_root()
}

/// Creates a backend by name.
pub fn backend(name: &str) -> Arc<dyn IsolationBackend> {
    match name {
        GondolinBackend::NAME => gondolin(),
        layers::NAME => layers::Layers::new(),
        _ => create_backend(name, &std::env::temp_dir()).unwrap(),
    }
}

/// Creates the backend for the Gondolin that `./test` installs. A start may take several minutes, so that a slow host fails no
/// test.
pub fn gondolin() -> Arc<GondolinBackend> {
    let mut config = GondolinConfig::in_data_dir(&data());
    config.start_limit = Duration::from_secs(240);
    Arc::new(GondolinBackend::with_config(&std::env::temp_dir(), config))
}

/// Returns the data directory of the tests.
pub fn data() -> PathBuf {
    let data = std::env::var_os("AGENTD_TEST_DATA").map(PathBuf::from);
    data.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/agentd"))
}

/// Creates a sandbox without grants.
pub async fn bare(name: &str) -> Arc<dyn Sandbox> {
    with(name, SandboxSpec::default()).await
}

/// Creates a sandbox from a spec.
pub async fn with(name: &str, spec: SandboxSpec) -> Arc<dyn Sandbox> {
    backend(name).create_sandbox(spec).await.unwrap()
}

/// A grant.
pub fn grant(path: &Path, access: Access) -> Grant {
    Grant::new(path, access)
}

/// Creates a command with a common `PATH`.
pub fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(Into::into).collect(),
        env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()), ("HOME".into(), "/home/agent".into())],
        ..Command::default()
    }
}

/// Creates a command that runs a shell script.
pub fn script(text: &str) -> Command {
    command(&["/bin/sh", "-c", text])
}

/// Runs a shell script and returns its outcome.
pub async fn sh(sandbox: &Arc<dyn Sandbox>, text: &str) -> Outcome {
    sandbox.exec(script(text)).await.unwrap()
}

/// Returns standard output as text.
pub fn out(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stdout.to_bytes()).into_owned()
}

/// Creates a temporary directory that only the caller can enter. Sandboxes cover its parent or have their own.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Returns whether a process has `needle` in its command line. Looks inside the sandbox if that is a virtual machine.
pub async fn lives(sandbox: &Arc<dyn Sandbox>, needle: &str) -> bool {
    if ![GondolinBackend::NAME, FirecrackerBackend::NAME].iter().any(|name| sandbox.id().0.starts_with(name)) {
        return runs(needle);
    }
    // The command line of the search itself must not contain the text.
    let mut look = script(
        "for line in /proc/[0-9]*/cmdline; do case $(tr '\\0' ' ' <$line 2>/dev/null) in *\"$NEEDLE\"*) exit 0 ;; esac; done; \
         exit 1",
    );
    look.env.push(("NEEDLE".into(), needle.into()));
    sandbox.exec(look).await.unwrap().exit_code == Some(0)
}

/// Multiplies a time by `AGENTD_SUITE_SLOW`, which the lab sets for emulated machines.
pub fn slow(time: Duration) -> Duration {
    let factor = std::env::var("AGENTD_SUITE_SLOW").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1);
    time * factor
}

/// Runs a script with a deadline that comes after the script's first line of output. A script prints that line when it has set
/// its handlers of signals. No fixed time is long enough on a busy machine, so repeats with ever longer deadlines.
pub async fn with_deadline_after_first_line(sandbox: &Arc<dyn Sandbox>, limits: Limits, text: &str) -> Outcome {
    let mut wall = Duration::from_millis(300);
    loop {
        let limits = Limits { wall: Some(wall), ..limits.clone() };
        let outcome = sandbox.exec(Command { limits, ..script(text) }).await.unwrap();
        if outcome.stdout.total() > 0 {
            return outcome;
        }
        assert!(wall < Duration::from_secs(600), "no output before the deadline: {outcome:?}");
        wall *= 2;
    }
}

/// Divides a number of repetitions by `AGENTD_SUITE_FEWER`, which the lab sets for emulated machines.
pub fn repetitions(number: u32) -> u32 {
    let divisor = std::env::var("AGENTD_SUITE_FEWER").ok().and_then(|divisor| divisor.parse().ok()).unwrap_or(1);
    number / divisor
}

/// Returns whether a process on the host has `needle` in its command line.
pub fn runs(needle: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(needle)
        })
    })
}
