//! The system call filter (`seccomp(2)`): what a profile does not list is refused with `EPERM`.
//!
//! Two filters are installed. The first is the allow-list. The second answers `ENOSYS` for calls whose callers fall back to an
//! older one when they hear that; the kernel takes the answer of the filter that was added last. Another architecture's entry
//! (32-bit on x86-64) kills the process; x32 numbers are in no list.

mod arguments;
mod syscalls;
#[cfg(test)]
mod tests;

use agentd_core::{Layer, LayerError, Network, Profile};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which filter a sandbox gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// The profile.
    pub profile: Profile,
    /// The network decides nothing by address here, only which socket families exist.
    pub network: Network,
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Program {
    allow: BpfProgram,
    absent: BpfProgram,
}

impl Program {
    /// BPF instructions of both filters.
    pub fn instructions(&self) -> usize {
        self.allow.len() + self.absent.len()
    }
}

impl SeccompPlan {
    /// The system calls that the profile lets through, by name and number; some of them only with certain arguments.
    pub fn allowed(&self) -> Vec<(&'static str, i64)> {
        let mut list: Vec<_> = syscalls::ALWAYS.iter().chain(arguments::checked_names()).copied().collect();
        if self.profile >= Profile::Default {
            list.extend_from_slice(syscalls::DEFAULT);
        }
        if self.profile >= Profile::Permissive {
            list.extend_from_slice(syscalls::PERMISSIVE);
        }
        list.sort_by_key(|(_, number)| *number);
        list.dedup();
        list
    }

    /// Compiles the filter.
    pub fn compile(&self) -> Result<Program, LayerError> {
        let failed = |e: &dyn std::fmt::Display| LayerError::new(Layer::Seccomp, format!("compile filter: {e}"), None);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = self.allowed().into_iter().map(|(_, nr)| (nr, Vec::new())).collect();
        for (number, checks) in arguments::rules(self.profile).map_err(|e| failed(&e))? {
            rules.insert(number, checks);
        }
        let absent = syscalls::ABSENT.iter().map(|(_, nr)| (*nr, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        Ok(Program {
            allow: build(rules, refuse, SeccompAction::Allow).map_err(|e| failed(&e))?,
            absent: build(absent, SeccompAction::Allow, missing).map_err(|e| failed(&e))?,
        })
    }
}

fn build(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 };
    SeccompFilter::new(rules, mismatch, matched, arch)?.try_into()
}

/// Installs the filter on this process and its future children. no_new_privs must be set.
pub fn apply(program: &Program) -> Result<(), LayerError> {
    for part in [&program.allow, &program.absent] {
        seccompiler::apply_filter(part).map_err(|error| {
            LayerError::new(Layer::Seccomp, format!("install filter: {error}"), None)
                .remedy("the kernel needs CONFIG_SECCOMP_FILTER, and an outer sandbox must allow seccomp(2)")
        })?;
    }
    Ok(())
}
