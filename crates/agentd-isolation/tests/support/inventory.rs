//! What agentd could leave on a host, listed before and after.

use agentd_isolation::{Bytes, Limits};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// What can be left on a host, by name.
#[derive(Debug)]
pub struct Inventory {
    pub processes: BTreeSet<i32>,
    pub descriptors: usize,
    pub mounts: usize,
    pub views: usize,
    pub groups: BTreeSet<PathBuf>,
    pub files: BTreeSet<PathBuf>,
}

impl Inventory {
    /// What is there now.
    pub fn take() -> Self {
        let list = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<BTreeSet<_>>();
        let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("agentd"));
        let processes = processes();
        Self {
            views: processes.iter().map(|launcher| views(*launcher)).sum(),
            processes,
            descriptors: list("/proc/self/fd").len(),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            groups: groups(),
            files: ["/tmp", "/dev/shm", "/var/tmp"].into_iter().flat_map(list).filter(ours).collect(),
        }
    }

    /// Whether nothing is here that was not there before. What was left by somebody else may go meanwhile.
    pub fn adds_nothing_to(&self, before: &Self) -> bool {
        self.processes.is_subset(&before.processes)
            && self.descriptors <= before.descriptors
            && self.mounts <= before.mounts
            && self.views <= before.views
            && self.groups.is_subset(&before.groups)
            && self.files.is_subset(&before.files)
    }
}

/// Launchers and supervisors, which both have the launcher's name.
fn processes() -> BTreeSet<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "agentd-launcher"))
        .collect()
}

/// Mount namespaces that a launcher keeps. Those of a supervisor, which nobody else can look at, are its own.
fn views(launcher: i32) -> usize {
    let open = fs::read_dir(format!("/proc/{launcher}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(|open| open.to_string_lossy().starts_with("mnt:")).count()
}

/// Control groups that agentd makes, wherever they are.
pub fn groups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            if entry.file_name().to_string_lossy().starts_with("agentd.") {
                found.insert(entry.path());
            }
            next.push(entry.path());
        }
    }
    found
}

/// Limits for which a cgroup is made, where this user may make one.
pub fn limits() -> Limits {
    let privileged = rustix::process::geteuid().is_root();
    Limits { memory: privileged.then_some(Bytes(64 << 20)), processes: privileged.then_some(32), ..Limits::default() }
}
