//! The system call filter (`seccomp(2)`): what a profile does not list is refused with `EPERM`; what callers have an older way
//! for is answered with `ENOSYS`. Another architecture's entry (32-bit on x86-64) kills the process; x32 numbers are in no list.

mod arguments;
mod assemble;
mod syscalls;
#[cfg(test)]
mod tests;

use agentd_core::{Layer, LayerError, Network, Profile};
use assemble::Decision;
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which filter a sandbox gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// The profile.
    pub profile: Profile,
    /// The network decides nothing by address here, only which socket families exist.
    pub network: Network,
    /// Whether set-user-id and set-group-id bits may be given: in a root of the sandbox's own they mean nothing (`nosuid`), in a directory
    /// of the caller's they would.
    pub set_ids: bool,
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Program(BpfProgram);

impl Program {
    /// How many BPF instructions it has; the kernel takes 4096 at most.
    pub fn instructions(&self) -> usize {
        self.0.len()
    }
}

impl SeccompPlan {
    /// The system calls that the profile lets through, by name and number; some of them only with certain arguments.
    pub fn allowed(&self) -> Vec<(&'static str, i64)> {
        let checked = arguments::rules(*self);
        let checked = checked.iter().filter(|(_, _, rules)| !rules.is_empty()).map(|(name, number, _)| (*name, *number));
        let mut list: Vec<_> = self.unconditional().chain(checked).collect();
        list.sort_by_key(|(_, number)| *number);
        list
    }

    fn unconditional(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let default = if self.profile >= Profile::Default { syscalls::DEFAULT } else { &[] };
        let permissive = if self.profile >= Profile::Permissive { syscalls::PERMISSIVE } else { &[] };
        let open = self.set_ids.then_some(&syscalls::OPENAT2);
        syscalls::ALWAYS.iter().chain(default).chain(permissive).chain(open).copied()
    }

    /// Compiles the filter.
    pub fn compile(&self) -> Program {
        let number = |nr: i64| u32::try_from(nr).unwrap_or(u32::MAX);
        let absent = syscalls::ABSENT.iter().chain([&syscalls::OPENAT2]);
        let mut decisions: BTreeMap<u32, Decision> = absent.map(|(_, nr)| (number(*nr), Decision::Fail(libc::ENOSYS))).collect();
        decisions.extend(self.unconditional().map(|(_, nr)| (number(nr), Decision::Allow)));
        decisions.extend(arguments::rules(*self).into_iter().map(|(_, nr, rules)| (number(nr), Decision::Check(rules))));
        Program(assemble::assemble(&decisions.into_iter().collect::<Vec<_>>()))
    }
}

/// Installs the filter on this process and its future children. no_new_privs must be set.
pub fn apply(program: &Program) -> Result<(), LayerError> {
    seccompiler::apply_filter(&program.0).map_err(|error| {
        LayerError::new(Layer::Seccomp, format!("install filter: {error}"), None)
            .remedy("the kernel needs CONFIG_SECCOMP_FILTER, and an outer sandbox must allow seccomp(2)")
    })
}
