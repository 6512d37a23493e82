//! Removing what killed makers left. A group's name says who made it: `agentd.<pid namespace>.<pid>.<start time>.<number>`. Only makers
//! of this process's own pid namespace can be known to be dead.

use super::{Hierarchy, group};
use std::os::unix::fs::MetadataExt;

/// The prefix of the groups of this process: its pid namespace, pid and start time, which together name it for as long as the machine
/// runs.
pub fn owner_prefix() -> String {
    let pid = std::process::id();
    format!("agentd.{}.{pid}.{}", pid_namespace(), start_time(pid).unwrap_or(0))
}

/// The number of this process's pid namespace (`namespaces(7)`, "The /proc/pid/ns/ directory").
fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// When a process started, in clock ticks since boot (`proc_pid_stat(5)`, field 22). A dead one that nobody has reaped yet did not.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether the process that made the group `name` is gone. Names that are not ours are nobody's to remove.
pub(super) fn is_orphaned(name: &str) -> bool {
    let mut parts = name.split('.');
    let (Some("agentd"), Some(namespace), Some(pid), Some(started), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    match (namespace.parse::<u64>(), pid.parse::<u32>(), started.parse::<u64>()) {
        (Ok(namespace), Ok(pid), Ok(started)) => namespace == pid_namespace() && start_time(pid) != Some(started),
        _ => false,
    }
}

impl Hierarchy {
    /// A name for the group number `number` of this process.
    pub fn name(number: u32) -> String {
        format!("{}.{number}", owner_prefix())
    }

    /// Ends and removes the groups whose maker is dead; says how many.
    pub fn sweep(&self) -> usize {
        let orphaned = |(_, parent): &(super::hierarchy::Version, std::path::PathBuf)| {
            let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
            entries.filter(|e| e.file_name().to_str().is_some_and(is_orphaned)).map(|e| e.path()).collect::<Vec<_>>()
        };
        let orphans: Vec<_> = self.parents.values().flat_map(orphaned).collect();
        for state in orphans.iter().map(|dir| dir.join("freezer.state")).filter(|file| file.exists()) {
            // On version 1, what is stopped does not die: this comes before all else. Where it fails, the removal will too.
            std::fs::write(state, "THAWED").ok();
        }
        for dir in &orphans {
            group::kill_all(dir);
        }
        // What cannot be removed now is met again by the next sweep.
        orphans.iter().filter(|dir| group::remove(dir).is_ok()).count()
    }
}
