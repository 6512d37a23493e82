//! The directories of processes in `/proc`.
//!
//! A pid names a process only in one PID namespace, and a mounted `/proc` shows the pids of the namespace that it was mounted in
//! (`pid_namespaces(7)`). After `unshare --pid`, and in a container with the `/proc` of the host, `/proc/PID` may therefore be
//! the directory of a process other than the one that this process knows by that pid.

use crate::text;
use agentd_core::{Control, ControlError};
use std::path::PathBuf;

const PROBLEM: &str = "/proc belongs to another PID namespace, so a pid in it may name another process";

const REMEDY: &str = "mount /proc of this namespace: mount -t proc proc /proc (unshare has the option --mount-proc)";

/// The error of access to a process by its pid, if `/proc` does not show the pids of this process's PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{PROBLEM} — {REMEDY}")]
pub struct ForeignProc;

impl ForeignProc {
    /// Converts the error into that of a control, which needed `/proc` for `call`.
    pub(crate) fn during(self, control: Control, call: &str) -> ControlError {
        ControlError::new(control, format!("{call}: {PROBLEM}"), None).remedy(REMEDY)
    }
}

/// Returns the directory of a process in `/proc`.
///
/// # Errors
/// [`ForeignProc`] if `/proc` is missing or belongs to another PID namespace.
pub fn directory_of(pid: i32) -> Result<PathBuf, ForeignProc> {
    let own = rustix::process::getpid().as_raw_pid();
    // A process that this `/proc` does not show has no entry `self`.
    let status = text::read("/proc/self/status").unwrap_or_default();
    if has_only(&status, own) { Ok(PathBuf::from(format!("/proc/{pid}"))) } else { Err(ForeignProc) }
}

/// Returns true if `status` names `pid` as the only pid of the process. The line has one pid for each PID namespace, from
/// that of the mount to that of the process (`proc_pid_status(5)`). A single pid therefore means that the mount and the
/// process have the same namespace. A comparison with the link `/proc/self` would be wrong if the process had the same pid in two
/// namespaces.
fn has_only(status: &str, pid: i32) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_ascii_whitespace().map(str::parse).eq([Ok(pid)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        idmap::{IdMap, write_maps},
        namespace,
    };
    use std::process::Command;

    /// Environment variable that marks the child process of a test, and contains whether its `/proc` is that of its namespace.
    const INSIDE: &str = "AGENTD_TEST_PROC_INSIDE";

    #[test]
    fn only_one_number_equal_to_the_own_means_the_same_namespace() {
        assert!(has_only("Name:\tx\nNSpid:\t12\nVmPeak:\t1 kB\n", 12));
        for foreign in ["NSpid:\t12\t12\n", "NSpid:\t13\n", "NSpid:\n", "Pid:\t12\n", ""] {
            assert!(!has_only(foreign, 12), "{foreign}");
        }
    }

    #[test]
    fn proc_of_another_pid_namespace_is_refused() {
        let own = rustix::process::getpid().as_raw_pid();
        if let Some(mounted) = std::env::var_os(INSIDE) {
            let found = directory_of(own);
            assert_eq!(found.is_ok(), mounted == "own", "{found:?}");
            if mounted == "host" {
                // No caller uses the number.
                let id_map = IdMap { uid: 0, gid: 0, host_uid: 0, host_gid: 0, count: 1, extra: None };
                let errors = [namespace::mounts_of(own).map(drop).unwrap_err(), write_maps(own, id_map, true).unwrap_err()];
                for error in errors.map(|error| error.to_string()) {
                    assert!(error.contains(PROBLEM), "{error}");
                }
            }
            return;
        }
        assert_eq!(directory_of(own), Ok(format!("/proc/{own}").into()));
        for (options, mounted) in [(&[][..], "host"), (&["--mount-proc"], "own")] {
            let mut inside = Command::new("unshare");
            inside.args(["--user", "--map-root-user", "--pid", "--fork"]).args(options).arg(std::env::current_exe().unwrap());
            inside.args(["--exact", "proc::tests::proc_of_another_pid_namespace_is_refused"]).env(INSIDE, mounted);
            let output = inside.output().unwrap();
            assert!(output.status.success(), "{mounted}: {output:?}");
        }
    }
}
