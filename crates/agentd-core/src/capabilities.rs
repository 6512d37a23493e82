//! Capabilities that a backend has proven on this host, and the evidence for them.

use crate::Profile;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One isolation claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// Files outside the grants can be neither read nor changed.
    Filesystem,
    /// The host's network, abstract sockets and other sandboxes cannot be reached.
    Network,
    /// Host processes can be neither seen, signalled nor traced.
    Process,
    /// A sandbox cannot exceed the limits of its spec.
    Resources,
    /// System calls outside the profile are refused.
    Syscalls,
    /// Commands run on a separate kernel, not on that of the host.
    Kernel,
    /// A sandbox with granted hosts reaches no other destination.
    Egress,
}

impl Claim {
    /// Every claim, in the order of the columns of `agentd doctor`.
    pub const ALL: [Self; 7] =
        [Self::Filesystem, Self::Process, Self::Network, Self::Syscalls, Self::Resources, Self::Kernel, Self::Egress];

    /// Returns the weight of the claim when backends are compared. [`Claim::Kernel`] weighs 0: a separate kernel costs time and
    /// memory for each sandbox, so callers request it explicitly. [`Claim::Egress`] also weighs 0: few sandboxes have granted
    /// hosts, and [`crate::BackendTraits::egress`] states whether a backend supports them.
    pub fn score(self) -> u32 {
        match self {
            Self::Filesystem => 4,
            Self::Process | Self::Network | Self::Syscalls => 2,
            Self::Resources => 1,
            Self::Kernel | Self::Egress => 0,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filesystem => "filesystem",
            Self::Network => "network",
            Self::Process => "process",
            Self::Resources => "resources",
            Self::Syscalls => "syscalls",
            Self::Kernel => "kernel",
            Self::Egress => "egress",
        })
    }
}

/// The result of one check of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceResult {
    /// The attack was tried and failed.
    Held,
    /// The attack succeeded; the text states how.
    Broken(String),
    /// The attack could not be tried, which proves nothing.
    NotTried(String),
}

/// One check that was run for one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The claim that the check supports.
    pub claim: Claim,
    /// The name of the check, e.g. `a5_see_or_signal_a_host_process`.
    pub check: String,
    /// The result of the check.
    pub result: EvidenceResult,
    /// Advice to the user if the check did not hold; may be empty.
    pub remedy: String,
}

/// The capabilities that a backend has proven on this host. A claim is true only if all its checks were tried and held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCapabilities {
    /// Canonical name of the backend.
    pub name: String,
    /// See [`Claim::Filesystem`].
    pub filesystem_isolation: bool,
    /// See [`Claim::Network`].
    pub network_isolation: bool,
    /// See [`Claim::Process`].
    pub process_isolation: bool,
    /// See [`Claim::Resources`].
    pub resource_limits: bool,
    /// See [`Claim::Syscalls`].
    pub syscall_filtering: bool,
    /// See [`Claim::Kernel`].
    pub kernel_isolation: bool,
    /// See [`Claim::Egress`].
    pub egress_filtering: bool,
    /// A sandbox stays usable from one exec to the next, until it is destroyed.
    pub persistent_sandboxes: bool,
    /// Sandboxes can be saved and restored.
    pub snapshots: bool,
    /// Profiles that a spec may name.
    pub available_profiles: Vec<Profile>,
    /// Facts about the platform, e.g. `landlock ABI 7`.
    pub platform_features: Vec<String>,
    /// The checks that were run.
    pub evidence: Vec<Evidence>,
}

impl BackendCapabilities {
    /// Derives the claims that `evidence` supports; a claim without evidence is false.
    pub fn from_evidence(name: &str, evidence: Vec<Evidence>) -> Self {
        let proven = |claim: Claim| {
            let mut of_claim = evidence.iter().filter(|e| e.claim == claim).peekable();
            of_claim.peek().is_some() && of_claim.all(|e| e.result == EvidenceResult::Held)
        };
        Self {
            name: name.to_owned(),
            filesystem_isolation: proven(Claim::Filesystem),
            network_isolation: proven(Claim::Network),
            process_isolation: proven(Claim::Process),
            resource_limits: proven(Claim::Resources),
            syscall_filtering: proven(Claim::Syscalls),
            kernel_isolation: proven(Claim::Kernel),
            egress_filtering: proven(Claim::Egress),
            evidence,
            ..Self::default()
        }
    }

    /// Returns whether `claim` was proven.
    pub fn has(&self, claim: Claim) -> bool {
        match claim {
            Claim::Filesystem => self.filesystem_isolation,
            Claim::Network => self.network_isolation,
            Claim::Process => self.process_isolation,
            Claim::Resources => self.resource_limits,
            Claim::Syscalls => self.syscall_filtering,
            Claim::Kernel => self.kernel_isolation,
            Claim::Egress => self.egress_filtering,
        }
    }

    /// Returns the sum of the scores of the proven claims.
    pub fn score(&self) -> u32 {
        Claim::ALL.into_iter().filter(|claim| self.has(*claim)).map(Claim::score).sum()
    }
}
