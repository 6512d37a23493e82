//! Removal of groups whose creator was killed. A group's name identifies its creator:
//! `agentd.<PID namespace>.<pid>.<start time>.<number>`.
//! Only a creator in this process's own PID namespace can be known to be dead.

use super::{Hierarchy, group};
use agentd_log::{LogFailure as _, measure::CountedFact};
use std::{os::unix::fs::MetadataExt, path::Path};

/// Returns the name prefix of this process's groups: PID namespace, pid and start time, which are unique until the host reboots.
pub fn owner_prefix() -> String {
    let pid = std::process::id();
    // Not `/proc/PID`, which may be the directory of another process (see [`crate::proc`]).
    format!("agentd.{}.{pid}.{}", pid_namespace(), start_time(Path::new("/proc/self")).unwrap_or(0))
}

/// Returns the inode number of this process's PID namespace (`namespaces(7)`, "The /proc/pid/ns/ directory").
fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// Returns the start time of a process in clock ticks since boot (`proc_pid_stat(5)`, field 22), or `None` for a dead process,
/// even an unreaped one.
fn start_time(process: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Returns true if the process that created the group `name` is dead. Returns false, so that the group is not removed, for a name
/// that is malformed, and if `/proc` belongs to another PID namespace.
pub(super) fn is_orphaned(name: &str) -> bool {
    let mut parts = name.split('.');
    let (Some("agentd"), Some(namespace), Some(pid), Some(started), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    match (namespace.parse::<u64>(), pid.parse::<i32>(), started.parse::<u64>()) {
        (Ok(namespace), Ok(pid), Ok(started)) if namespace == pid_namespace() => {
            crate::proc::directory_of(pid).is_ok_and(|creator| start_time(&creator) != Some(started))
        }
        _ => false,
    }
}

impl Hierarchy {
    /// Returns the name for group number `number` of this process.
    pub fn name(number: u32) -> String {
        format!("{}.{number}", owner_prefix())
    }

    /// Kills the processes of all groups whose creator is dead and removes these groups. Returns the number of removed
    /// directories.
    pub fn sweep(&self) -> usize {
        let orphaned = |(_, parent): &(super::hierarchy::Version, std::path::PathBuf)| {
            let entries = std::fs::read_dir(parent).or_debug("list control groups", parent).into_iter().flatten().flatten();
            entries.filter(|e| e.file_name().to_str().is_some_and(is_orphaned)).map(|e| e.path()).collect::<Vec<_>>()
        };
        let orphans: Vec<_> = self.parents.values().flat_map(orphaned).collect();
        for state in orphans.iter().map(|dir| dir.join("freezer.state")).filter(|file| file.exists()) {
            // On version 1 a frozen process does not die, so the groups are thawed first. If the write fails, the removal also
            // fails.
            std::fs::write(&state, "THAWED").or_warn("thaw control group of a dead launcher", &state);
        }
        for dir in &orphans {
            group::kill_all(dir);
        }
        // The next sweep retries groups that cannot be removed now.
        let removed = orphans.iter().filter_map(|dir| group::remove(dir).or_warn("remove control group of a dead launcher", dir));
        let number = removed.count();
        CountedFact::Swept { kind: "cgroup", number: number as u64 }.emit();
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Environment variable that marks the child process of the test, and contains whether its `/proc` is that of its namespace.
    const INSIDE: &str = "AGENTD_TEST_SWEEP_INSIDE";

    #[test]
    fn group_is_orphaned_only_if_proc_shows_that_its_creator_is_dead() {
        let own = rustix::process::getpid().as_raw_pid();
        // This process began at another time, so the group belongs to an earlier process with the same pid.
        let name = format!("agentd.{}.{own}.{}.0", pid_namespace(), u64::MAX);
        if let Some(mounted) = std::env::var_os(INSIDE) {
            return assert_eq!(is_orphaned(&name), mounted == "own");
        }
        assert!(is_orphaned(&name) && !is_orphaned(&format!("{}.0", owner_prefix())));
        for (options, mounted) in [(&[][..], "host"), (&["--mount-proc"], "own")] {
            let mut inside = Command::new("unshare");
            inside.args(["--user", "--map-root-user", "--pid", "--fork"]).args(options).arg(std::env::current_exe().unwrap());
            inside.args(["--exact", "cgroup::sweep::tests::group_is_orphaned_only_if_proc_shows_that_its_creator_is_dead"]);
            let output = inside.env(INSIDE, mounted).output().unwrap();
            assert!(output.status.success(), "{mounted}: {output:?}");
        }
    }
}
