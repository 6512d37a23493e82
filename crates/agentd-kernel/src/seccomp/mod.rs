//! The system call filter (`seccomp(2)`). A plan names the profile; [`SeccompPlan::compile`] turns it into a BPF program, and
//! [`apply`] installs the program.
//!
//! A call that the profile does not list fails. It returns `ENOSYS` if the call is newer than Linux 5.0, as on an older kernel,
//! so that callers fall back to an older call. Otherwise, it returns `EPERM`. An unlisted socket family or protocol fails as on a
//! kernel without it. A call through the entry of another architecture (32-bit on x86-64) kills the process; x32 numbers are in
//! no list.

mod arguments;
mod assemble;
mod notify;
mod reschedule;
mod syscalls;
#[cfg(test)]
mod tests;

use crate::syscall;
use agentd_core::{Control, ControlError, NetworkMode, Profile};
use assemble::{Answer, Decision};
pub use notify::{Call, Listener, ModeChange, RequestedChange, Target};
pub use reschedule::{Reschedule, Scope};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The parameters of a sandbox's filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// The profile.
    pub profile: Profile,
    /// Network access of the sandbox. The filter does not check addresses.
    pub network: NetworkMode,
    /// True if set-user-id and set-group-id bits may be set. They have no effect in a sandbox's own root (`nosuid`), but would
    /// have one in a directory of the caller.
    pub set_ids: bool,
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Program(BpfProgram);

impl Program {
    /// Returns the number of BPF instructions. The kernel accepts 4096 at most.
    pub fn instructions(&self) -> usize {
        self.0.len()
    }
}

impl SeccompPlan {
    /// Returns name and number of each system call that the profile allows, including calls that it allows with certain arguments
    /// only.
    pub fn allowed(&self) -> Vec<(&'static str, i64)> {
        let checked = arguments::rules(*self);
        let allows = |decision: &Decision| match decision {
            Decision::Always(answer) => *answer == Answer::Allow,
            Decision::Check(rules, without) => {
                rules.iter().map(|rule| rule.answer).chain([*without]).any(|answer| answer == Answer::Allow)
            }
        };
        let checked = checked.iter().filter(|(_, _, decision)| allows(decision)).map(|(name, number, _)| (*name, *number));
        let mut list: Vec<_> = self.unconditional().chain(checked).collect();
        list.sort_by_key(|(_, number)| *number);
        list
    }

    /// The number of threads of a supervisor with this filter: its main thread, and one for the listener.
    pub const SUPERVISOR_THREADS: u32 = 2;

    fn unconditional(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let default = if self.profile >= Profile::Default { syscalls::DEFAULT } else { &[] };
        let permissive = if self.profile >= Profile::Permissive { syscalls::PERMISSIVE } else { &[] };
        let open = self.set_ids.then_some(&syscalls::OPENAT2);
        syscalls::ALWAYS.iter().chain(default).chain(permissive).chain(open).copied()
    }

    /// Compiles the filter.
    pub fn compile(&self) -> Program {
        let number = |nr: i64| u32::try_from(nr).unwrap_or(u32::MAX);
        let allowed = self.unconditional().map(|(_, nr)| (number(nr), Decision::Always(Answer::Allow)));
        let mut decisions: BTreeMap<u32, Decision> = allowed.collect();
        decisions.extend(arguments::rules(*self).into_iter().map(|(_, nr, decision)| (number(nr), decision)));
        Program(assemble::assemble(&decisions.into_iter().collect::<Vec<_>>()))
    }
}

/// The remedy if the kernel refuses a filter.
const NEEDS: &str = "boot a kernel with CONFIG_SECCOMP_FILTER; in an outer sandbox, allow seccomp(2)";

/// Installs the filter on this thread and its future children. no_new_privs must be set.
///
/// # Errors
/// The error of `prctl(2)` or `seccomp(2)`.
pub fn apply(program: &Program) -> Result<(), ControlError> {
    seccompiler::apply_filter(&program.0)
        .map_err(|error| ControlError::caused_by(Control::Seccomp, "install filter", error).remedy(NEEDS))
}

/// Installs the filter as [`apply`] does, and returns its listener. Returns `None` if a filter of an outer sandbox already has a
/// listener, because the kernel allows one per process. Calls that the filter passes to a listener then fail with `ENOSYS`.
///
/// # Errors
/// The errno of `seccomp(2)`, except `EBUSY`.
pub fn apply_with_listener(program: &Program) -> Result<Option<Listener>, ControlError> {
    match syscall::seccomp::install_filter_with_listener(&program.0) {
        Ok(listener) => Ok(Some(Listener::new(listener))),
        Err(rustix::io::Errno::BUSY) => apply(program).map(|()| None),
        Err(errno) => {
            let call = "install filter with a listener";
            Err(ControlError::new(Control::Seccomp, call, Some(errno.raw_os_error())).remedy(NEEDS))
        }
    }
}
