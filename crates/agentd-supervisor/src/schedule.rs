//! Changes the scheduling of threads for commands, each only within its own exec.
//!
//! The commands of a sandbox share users, so the kernel would let them change each other's nice value, policy, processors and I/O
//! priority. A filter sees the id of the target, but not the command that the id belongs to. The filter therefore allows changes
//! of the calling thread itself, and passes the others to the thread of [`crate::listener`].
//!
//! That thread performs the call after the check. If the kernel continued the call instead, the caller could delay it until the
//! id belongs to another process.

use agentd_kernel::{
    process::{keep_priority, process_group, session},
    seccomp::{Call, Listener, Reschedule, Scope},
};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};
use std::os::fd::{AsFd, OwnedFd};

/// The maximum number of ancestors that are examined.
const MAX_ANCESTORS: usize = 4096;

/// Answers one call.
pub fn change(listener: &Listener, call: &Call, change: Reschedule, own_proc: bool) {
    match decide(call, change, own_proc) {
        Ok(Decision::Resume) if listener.is_waiting(call) => listener.resume(call),
        Ok(Decision::Resume) => {}
        Ok(Decision::Perform) => {
            let performed = change.prepare(call).and_then(|prepared| {
                // The id of the caller, or of the target, may have been reused for another process after the decision.
                if !listener.is_waiting(call) {
                    return Err(Errno::SRCH);
                }
                check(call.thread, change.scope, own_proc)?;
                prepared.perform()
            });
            listener.answer(call, performed);
        }
        Err(errno) => listener.answer(call, Err(errno)),
    }
}

enum Decision {
    Perform,
    /// The kernel continues the call, with the caller's own rights.
    Resume,
}

fn decide(call: &Call, change: Reschedule, own_proc: bool) -> Result<Decision, Errno> {
    if change.scope == Scope::Thread(call.thread) {
        // The caller waits, so its own id cannot be reused for another thread.
        return Ok(Decision::Resume);
    }
    check(call.thread, change.scope, own_proc)?;
    match keep_priority(call.thread) {
        // The caller has another user id, whose rights this thread lacks. The caller can change processes of that user only.
        Err(Errno::PERM) => Ok(Decision::Resume),
        other => other.map(|()| Decision::Perform),
    }
}

/// Fails with `EPERM` if `scope` is not part of the exec that `caller` belongs to, and with `ESRCH` if it does not exist.
fn check(caller: i32, scope: Scope, own_proc: bool) -> Result<(), Errno> {
    let own = match scope {
        Scope::Thread(thread) => thread > 0 && same_exec(caller, thread, own_proc)?,
        // The processes of a group are in one session, that of its leader. A group whose leader has ended cannot be
        // attributed to an exec, unless it is the caller's own.
        Scope::Group(group) if group > 0 => {
            process_group(caller)? == group || (process_group(group)? == group && same_exec(caller, group, own_proc)?)
        }
        Scope::Group(_) => return Err(Errno::SRCH),
    };
    if own { Ok(()) } else { Err(Errno::PERM) }
}

/// Returns true if two threads belong to the same exec. Each exec starts in a separate session, and no process can join the
/// session of another exec. A process that left its exec's session is recognised by its ancestors, if `/proc` shows them.
fn same_exec(one: i32, other: i32, own_proc: bool) -> Result<bool, Errno> {
    // 0 is a session outside of the PID namespace: that of the supervisor.
    let (first, second) = (session(one)?, session(other)?);
    if first == second {
        return Ok(first > 0);
    }
    Ok(own_proc && leader(one).is_some_and(|first| leader(other) == Some(first)))
}

/// Returns the ancestor of a thread that is a child of this process: the leader of its exec. `None` if `/proc` hides an ancestor,
/// or an ancestor has ended in the meantime.
fn leader(thread: i32) -> Option<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut below = Process::open(thread)?;
    for _ in 0..MAX_ANCESTORS {
        let (process, parent) = below.ids()?;
        if parent == own {
            return Some(process);
        }
        let above = Process::open(parent)?;
        // After a parent has ended, its id may belong to another process. The kernel then assigns the child to a new parent.
        if below.ids()? != (process, parent) {
            return None;
        }
        below = above;
    }
    None
}

/// The directory of a thread in `/proc`. The descriptor refers to this thread even after the id of the thread is reused.
struct Process(OwnedFd);

impl Process {
    fn open(thread: i32) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        (thread > 0).then_some(())?;
        rustix::fs::openat(CWD, format!("/proc/{thread}"), flags, Mode::empty()).ok().map(Self)
    }

    /// Returns the ids of the process and of its parent.
    fn ids(&self) -> Option<(i32, i32)> {
        let status = rustix::fs::openat(self.0.as_fd(), "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = [0; 1024];
        let length = rustix::io::read(&status, &mut text).ok()?;
        ids(&text[..length])
    }
}

/// Parses `Tgid` and `PPid` (`proc_pid_status(5)`). Newlines in the name of a program are escaped.
fn ids(status: &[u8]) -> Option<(i32, i32)> {
    let field = |name: &[u8]| {
        let value = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    };
    Some((field(b"Tgid:")?, field(b"PPid:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_name_cannot_forge_the_parent() {
        let status = b"Name:\tx\\nPPid:\t9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t12\nNgid:\t0\nPid:\t13\nPPid:\t7\n";
        assert_eq!(ids(status), Some((12, 7)));
        assert_eq!(ids(b"Name:\tx\nPPid:\t7\n"), None);
        assert_eq!(ids(b""), None);
    }

    #[test]
    fn ancestors_lead_to_the_child_of_this_process() {
        let mut command = std::process::Command::new("/bin/sh");
        let mut child = command.args(["-c", "sleep 100 & echo $!; wait"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        let (leader_id, below) = (i32::try_from(child.id()).unwrap(), line.trim().parse().unwrap());
        assert_eq!(leader(leader_id), Some(leader_id));
        assert_eq!(leader(below), Some(leader_id));
        assert_eq!(leader(1), None);
        rustix::process::kill_process(rustix::process::Pid::from_raw(below).unwrap(), rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
    }
}
