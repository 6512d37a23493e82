//! An inventory of everything that agentd could leave on a host, for comparison before and after a test.

use agentd::isolation::{Bytes, Limits};
use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Mutex};

/// Processes, descriptors, mounts, control groups and files of agentd.
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
    /// Lists everything that exists now.
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

    /// Returns whether everything here also existed before. Leftovers of others may disappear in the meantime.
    pub fn adds_nothing_to(&self, before: &Self) -> bool {
        self.processes.is_subset(&before.processes)
            && self.descriptors <= before.descriptors
            && self.mounts <= before.mounts
            && self.views <= before.views
            && self.groups.is_subset(&before.groups)
            && self.files.is_subset(&before.files)
    }
}

/// Returns launchers and supervisors; both have the launcher's name.
fn processes() -> BTreeSet<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "agentd-launcher"))
        .collect()
}

/// Counts the mount namespaces that a launcher holds open. A supervisor's descriptors cannot be read.
fn views(launcher: i32) -> usize {
    let open = fs::read_dir(format!("/proc/{launcher}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(|open| open.to_string_lossy().starts_with("mnt:")).count()
}

/// Inode numbers of the PID namespaces of machines that this process has started.
static MACHINES: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Adds the control groups of a machine's PID namespace to every later inventory.
pub fn include_groups_of(namespace: u64) {
    MACHINES.lock().unwrap().insert(namespace);
}

/// Returns all control groups of agentd's processes in this PID namespace and in those of machines, in every hierarchy. Suites in
/// other PID namespaces may run at the same time.
pub fn groups() -> BTreeSet<PathBuf> {
    let own = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let machines = MACHINES.lock().unwrap();
    let prefixes: Vec<String> = machines.iter().chain([&own]).map(|number| format!("agentd.{number}.")).collect();
    let mut found = BTreeSet::new();
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            if prefixes.iter().any(|prefix| entry.file_name().to_string_lossy().starts_with(prefix)) {
                found.insert(entry.path());
            }
            next.push(entry.path());
        }
    }
    found
}

/// Returns limits that need a cgroup if this user is root, and no limits otherwise.
pub fn limits() -> Limits {
    let privileged = rustix::process::geteuid().is_root();
    Limits { memory: privileged.then_some(Bytes(64 << 20)), processes: privileged.then_some(32), ..Limits::default() }
}
