//! Ends process trees.
//!
//! The leader of an exec is a child subreaper, so its whole tree is below it while it is alive. When the leader ends, the
//! supervisor adopts the remaining processes, which belong to no exec, and kills them.
//!
//! Orphans are found among this process's own children. The kernel lists these even if a process hides: a process that is not
//! dumpable has no entry in a `/proc` with `hidepid`.

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions},
};
use std::collections::HashSet;

/// Kills everything but the supervisor. In a PID namespace `kill(-1)` reaches exactly the processes of the namespace (`kill(2)`).
pub fn kill_namespace() {
    // SAFETY: integer arguments. The caller is process 1 of a PID namespace, so -1 means the namespace.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Kills `root`, a child of this process, and its descendants. A descendant that hides, or is forked in the meantime, becomes an
/// orphan and is left to [`kill_orphans`].
pub fn kill_tree(root: i32) {
    // Processes are stopped from the root down and killed afterwards, so that no parent can react to a child's death by forking
    // another.
    for pid in tree(root, |pid| signal(pid, Signal::STOP)) {
        signal(pid, Signal::KILL);
    }
}

/// Returns `root` and its visible descendants. Calls `met` on each process before its children are looked up.
pub fn tree(root: i32, mut met: impl FnMut(i32)) -> Vec<i32> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if seen.insert(pid) {
            met(pid);
            next.extend(descend(pid));
            found.push(pid);
        }
    }
    found
}

/// Kills and reaps every child of this process that is not in `keep`, and the orphans that these leave, until none remains. Calls
/// `reaped` with the usage of each.
pub fn kill_orphans(keep: &HashSet<i32>, mut reaped: impl FnMut(&libc::rusage)) {
    loop {
        let orphans: Vec<i32> = own_children().into_iter().filter(|pid| !keep.contains(pid)).collect();
        if orphans.is_empty() {
            return;
        }
        for pid in &orphans {
            kill_tree(*pid);
        }
        for pid in orphans {
            // SAFETY: all-zero is a valid rusage.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: a null status pointer is allowed; `usage` is live.
            if unsafe { libc::wait4(pid, std::ptr::null_mut(), 0, &raw mut usage) } == pid {
                reaped(&usage);
            }
        }
    }
}

/// Kills every child of this process that is not in `keep`, and reaps those that are already dead. Returns true if there was
/// none. Never blocks: call it until it returns true.
pub fn try_kill_orphans(keep: &HashSet<i32>) -> bool {
    let orphans: Vec<i32> = own_children().into_iter().filter(|pid| !keep.contains(pid)).collect();
    for pid in &orphans {
        kill_tree(*pid);
    }
    for pid in orphans.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // An orphan that is not reaped now is found, and reaped, by the next call.
        rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).ok();
    }
    orphans.is_empty()
}

/// Returns the children of this single-threaded process (`proc_tid_children(5)`).
fn own_children() -> Vec<i32> {
    match std::fs::read_to_string("/proc/thread-self/children") {
        Ok(list) => numbers(&list),
        // The kernel was built without CONFIG_PROC_CHILDREN.
        Err(_) => descendants(rustix::process::getpid().as_raw_nonzero().get()),
    }
}

/// Returns the visible children of another process.
fn descend(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists: std::io::Result<Vec<String>> =
        tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children"))).collect();
    lists.map_or_else(|_| descendants(pid), |lists| lists.iter().flat_map(|list| numbers(list)).collect())
}

fn numbers(list: &str) -> Vec<i32> {
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Finds the children of a process by the parent of every process (`proc_pid_stat(5)`).
fn descendants(parent: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent_of(&stat) == Some(parent)))
        .collect()
}

/// Parses the fourth field. The second field, a name in parentheses, may contain any bytes.
fn parent_of(stat: &[u8]) -> Option<i32> {
    let after = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(&stat[after..]).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // A process that is already gone needs no signal.
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Returns true if this process has a child that is not reaped.
pub fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::All, look), Err(Errno::CHILD))
}

/// Reaps every child until none is left. All children must have been killed.
pub fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::empty()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_parentheses_does_not_forge_parent() {
        assert_eq!(parent_of(b"12 (evil) 1 (x) S 7 7 7 0"), Some(7));
        assert_eq!(parent_of(b"12 (sh) S 3 7"), Some(3));
        assert_eq!(parent_of(b"12 sh"), None);
        assert_eq!(parent_of(b""), None);
    }

    #[test]
    fn tree_walk_and_proc_scan_find_child() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(descendants(me).contains(&pid));
        assert!(descend(me).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
