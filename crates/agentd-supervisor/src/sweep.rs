//! Ending process trees. An exec's leader is a child subreaper, so while it lives its whole tree is below it; what is orphaned
//! after that comes to the supervisor, belongs to no exec, and is killed.

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions},
};
use std::collections::{HashMap, HashSet};

/// Kills everything but the supervisor. In a pid namespace `kill(-1)` reaches all of it and nothing else (`kill(2)`).
pub fn kill_namespace() {
    // SAFETY: integer arguments. The caller is process 1 of a pid namespace, so -1 means the namespace.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Kills the trees below `roots`, the roots included, and every other child of this process that is not in `keep`.
/// Goes on until a pass finds nothing new: a process that forks while being looked at is found in the next one.
pub fn kill_trees(roots: &[i32], keep: &HashSet<i32>) {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut stopped: HashSet<i32> = HashSet::new();
    loop {
        let parents = parents();
        let doomed: Vec<i32> = parents.keys().copied().filter(|pid| is_doomed(*pid, me, roots, keep, &parents)).collect();
        let fresh: Vec<i32> = doomed.iter().copied().filter(|pid| stopped.insert(*pid)).collect();
        // Stopped first and killed last, so that no parent can react to a child's death by forking another.
        for pid in &fresh {
            signal(*pid, Signal::STOP);
        }
        if fresh.is_empty() {
            break;
        }
    }
    for pid in stopped {
        signal(pid, Signal::KILL);
    }
}

fn is_doomed(pid: i32, me: i32, roots: &[i32], keep: &HashSet<i32>, parents: &HashMap<i32, i32>) -> bool {
    let mut at = pid;
    // A cycle cannot be, but /proc is read while it changes.
    for _ in 0..parents.len() + 1 {
        if roots.contains(&at) {
            return true;
        }
        if keep.contains(&at) {
            return false;
        }
        match parents.get(&at) {
            Some(parent) if *parent == me => return true,
            Some(parent) => at = *parent,
            None => return false,
        }
    }
    false
}

/// Every visible process and its parent (`proc_pid_stat(5)`).
fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parent_of(&stat)?))
        })
        .collect()
}

/// The fourth field; the second, a name in parentheses, may contain anything.
fn parent_of(stat: &[u8]) -> Option<i32> {
    let after = stat.iter().rposition(|b| *b == b')')? + 1;
    let text = std::str::from_utf8(&stat[after..]).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may be gone already, which is what is wanted.
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Whether this process has a child, reaped ones aside.
pub fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::All, look), Err(Errno::CHILD))
}

/// Reaps every child until none is left. All of them have been killed.
pub fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::empty()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_cannot_forge_its_parent() {
        assert_eq!(parent_of(b"12 (evil) 1 (x) S 7 7 7 0"), Some(7));
        assert_eq!(parent_of(b"12 (sh) S 3 7"), Some(3));
        assert_eq!(parent_of(b"12 sh"), None);
        assert_eq!(parent_of(b""), None);
    }
}
