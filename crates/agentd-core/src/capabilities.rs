//! What a backend has proven on this machine.

use crate::Profile;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One isolation claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bit {
    /// Files outside the grants can be neither read nor changed.
    Filesystem,
    /// The host's network, abstract sockets and other sandboxes cannot be reached.
    Network,
    /// Host processes can be neither seen, signalled nor traced.
    Process,
    /// The limits of a spec hold.
    Resources,
    /// System calls outside the profile are refused.
    Syscalls,
}

impl Bit {
    /// Every bit, in the order of the columns of `agentd doctor`.
    pub const ALL: [Self; 5] = [Self::Filesystem, Self::Process, Self::Network, Self::Syscalls, Self::Resources];

    /// What the bit counts when backends are compared.
    pub fn score(self) -> u32 {
        match self {
            Self::Filesystem => 4,
            Self::Process | Self::Network | Self::Syscalls => 2,
            Self::Resources => 1,
        }
    }
}

impl fmt::Display for Bit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filesystem => "filesystem",
            Self::Network => "network",
            Self::Process => "process",
            Self::Resources => "resources",
            Self::Syscalls => "syscalls",
        })
    }
}

/// How one check of the probe ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceResult {
    /// The attack was tried and failed.
    Held,
    /// The attack succeeded; the text says how.
    Broken(String),
    /// The attack could not be tried, which proves nothing.
    NotTried(String),
}

/// One check that was run for one bit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The bit it is evidence for.
    pub bit: Bit,
    /// The check, e.g. `a5_see_host_processes`.
    pub check: String,
    /// Its result.
    pub result: EvidenceResult,
    /// What to do when it did not hold; may be empty.
    pub remedy: String,
}

/// What a backend has proven here. A bit is true only when every check of it was tried and held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCapabilities {
    /// Canonical name.
    pub name: String,
    /// See [`Bit::Filesystem`].
    pub filesystem_isolation: bool,
    /// See [`Bit::Network`].
    pub network_isolation: bool,
    /// See [`Bit::Process`].
    pub process_isolation: bool,
    /// See [`Bit::Resources`].
    pub resource_limits: bool,
    /// See [`Bit::Syscalls`].
    pub syscall_filtering: bool,
    /// Sandboxes live on after their client.
    pub persistent_sandboxes: bool,
    /// Sandboxes can be saved and restored.
    pub snapshots: bool,
    /// How many sandboxes may live at once; `None` for no limit of its own.
    pub max_concurrent_sandboxes: Option<u32>,
    /// Profiles a spec may name.
    pub available_profiles: Vec<Profile>,
    /// Facts about the platform, e.g. `landlock ABI 7`.
    pub platform_features: Vec<String>,
    /// The checks that were run.
    pub evidence: Vec<Evidence>,
}

impl BackendCapabilities {
    /// The claims that `evidence` supports; those without any evidence are false.
    pub fn from_evidence(name: &str, evidence: Vec<Evidence>) -> Self {
        let proven = |bit: Bit| {
            let mut of_bit = evidence.iter().filter(|e| e.bit == bit).peekable();
            of_bit.peek().is_some() && of_bit.all(|e| e.result == EvidenceResult::Held)
        };
        Self {
            name: name.to_owned(),
            filesystem_isolation: proven(Bit::Filesystem),
            network_isolation: proven(Bit::Network),
            process_isolation: proven(Bit::Process),
            resource_limits: proven(Bit::Resources),
            syscall_filtering: proven(Bit::Syscalls),
            evidence,
            ..Self::default()
        }
    }

    /// Whether `bit` was proven.
    pub fn has(&self, bit: Bit) -> bool {
        match bit {
            Bit::Filesystem => self.filesystem_isolation,
            Bit::Network => self.network_isolation,
            Bit::Process => self.process_isolation,
            Bit::Resources => self.resource_limits,
            Bit::Syscalls => self.syscall_filtering,
        }
    }

    /// The sum of the scores of the proven bits.
    pub fn score(&self) -> u32 {
        Bit::ALL.into_iter().filter(|bit| self.has(*bit)).map(Bit::score).sum()
    }
}
