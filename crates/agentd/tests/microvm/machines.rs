//! Machines of `firecracker` on this host: how tests create, find and kill them, and how they are run.

use crate::support::with;
use agentd::isolation::{Bytes, Limits, Sandbox, SandboxSpec, data_directory};
use libtest_mimic::{Arguments, Trial};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

pub const NAME: &str = "firecracker";

/// The time limit of a test. Each test starts many machines inside an emulated machine, which is slower while other rows of a run
/// also emulate machines: two tests then took more than 400 s.
const TIMEOUT: Duration = Duration::from_secs(1500);

/// Runs tests. They count processes and files of the host, so they run one at a time.
pub fn run(trials: Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit()
}

pub fn trial<F, Fut>(name: &str, test: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, test()).await })
            .map_err(|_| "not finished within the time limit".into())
    })
}

/// Creates a sandbox in a small machine, whose snapshots are small.
pub async fn small() -> Arc<dyn Sandbox> {
    let limits = Limits { memory: Some(Bytes(64 << 20)), ..Limits::default() };
    with(NAME, SandboxSpec { limits, ..SandboxSpec::default() }).await
}

/// Returns the directories of machines, and the processes of Firecracker and its shims.
pub fn left() -> (Vec<PathBuf>, Vec<String>) {
    let machines = data_directory().unwrap().join("vm/machines");
    let folders = fs::read_dir(machines).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    (folders, processes())
}

pub fn processes() -> Vec<String> {
    let named = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let program = line.split(|byte| *byte == 0).next()?.to_vec();
        let program = String::from_utf8(program).ok()?;
        let ours = ["firecracker", "jailer", "agentd-shim"].iter().any(|name| program.rsplit('/').next() == Some(name));
        ours.then(|| format!("{} {program}", entry.file_name().display()))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| named(&entry)).collect()
}

/// Returns all control groups of agentd.
pub fn groups() -> BTreeSet<PathBuf> {
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = BTreeSet::new();
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                next.push(entry.path());
                if entry.file_name().to_string_lossy().starts_with("agentd.") {
                    found.insert(entry.path());
                }
            }
        }
    }
    found
}

/// Waits until no machine, process or new control group exists.
pub async fn settle(before: &BTreeSet<PathBuf>) {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let (folders, processes) = left();
        let more: Vec<_> = groups().difference(before).cloned().collect();
        if folders.is_empty() && processes.is_empty() && more.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {folders:?} {processes:?} {more:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn pids(name: &str) -> Vec<i32> {
    processes().iter().filter(|line| line.ends_with(name)).map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

pub fn kill(name: &str) {
    for pid in pids(name) {
        // The process may have ended already.
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).ok();
    }
}
