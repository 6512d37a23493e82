//! Obligations: the most that a permission allows.
//!
//! Each permit states its obligations as annotations (`annotation`); an obligation that a permit does not state has the value of
//! [`Obligations::usual`]. If several permits determine a decision, [`Obligations::meet`] combines them. The meet is the greatest
//! lower bound of a lattice in each field, so it is commutative, associative and idempotent, and it is never weaker than either
//! permit. [`Obligations::apply`] compares a request with the result.

mod annotation;
mod apply;
mod network;
#[cfg(test)]
mod property_tests;

pub use annotation::{ANNOTATIONS, AnnotationProblem};
pub use apply::{Effective, Exceeded, Excess, RequestedConfinement};
pub use network::NetworkBound;

use agentd_core::{Bytes, Limits, Profile};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// The relative weight of processors that a permission allows, if no policy states another. It is the kernel's default
/// (`cgroup-v2.rst`, `cpu.weight`).
const USUAL_CPU_WEIGHT: u32 = 100;

/// The most that a permission allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obligations {
    /// The weakest profile.
    pub profile: Profile,
    /// The largest limits. `wall` bounds the sum of `wall` and `grace`, and `grace` is never set. `None` means no bound.
    pub limits: Limits,
    /// The destinations that the sandbox may reach.
    pub network: NetworkBound,
    /// The backends, one of which must be used.
    pub backends: BTreeSet<String>,
    /// The texts of the approvals that the request needs before it is executed.
    pub approvals: BTreeSet<String>,
}

impl Obligations {
    /// Returns the obligations of a permit without annotations: the profile `default`, no network, every backend with a boundary.
    pub fn usual(isolated: BTreeSet<String>) -> Self {
        Self {
            profile: Profile::Default,
            limits: Limits { cpu_weight: Some(USUAL_CPU_WEIGHT), ..Limits::default() },
            network: NetworkBound::none(),
            backends: isolated,
            approvals: BTreeSet::new(),
        }
    }

    /// Returns the obligations that satisfy both.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        Self {
            profile: self.profile.min(other.profile),
            limits: meet_limits(&self.limits, &other.limits),
            network: self.network.meet(&other.network),
            backends: self.backends.intersection(&other.backends).cloned().collect(),
            approvals: self.approvals.union(&other.approvals).cloned().collect(),
        }
    }

    /// Returns true if these obligations are at least as strict as `other` in every field.
    pub fn is_within(&self, other: &Self) -> bool {
        self.meet(other) == *self
    }

    /// Returns the obligations as a JSON object (`docs/json.md`).
    pub fn to_json(&self) -> Value {
        let millis = |limit: Option<Duration>| limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let bytes = |limit: Option<Bytes>| limit.map(|limit| limit.0);
        let Limits { wall, cpu_time, memory, processes, open_files, file_size, output, cpu_quota, cpu_weight, .. } = &self.limits;
        json!({
            "profile": self.profile,
            "timeout_ms": millis(*wall),
            "cpu_time_ms": millis(*cpu_time),
            "memory_bytes": bytes(*memory),
            "processes": processes,
            "open_files": open_files,
            "file_size_bytes": bytes(*file_size),
            "output_bytes": bytes(*output),
            "cpus": cpu_quota.map(|quota| f64::from(quota.0) / 1000.0),
            "cpu_weight": cpu_weight,
            "network": self.network.word(),
            "egress": self.network.hosts().map(|hosts| hosts.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "backends": self.backends,
            "approvals": self.approvals,
        })
    }
}

fn meet_limits(one: &Limits, other: &Limits) -> Limits {
    Limits {
        wall: least(one.wall, other.wall),
        grace: None,
        cpu_time: least(one.cpu_time, other.cpu_time),
        memory: least(one.memory, other.memory),
        processes: least(one.processes, other.processes),
        open_files: least(one.open_files, other.open_files),
        file_size: least(one.file_size, other.file_size),
        output: least(one.output, other.output),
        cpu_quota: least(one.cpu_quota, other.cpu_quota),
        cpu_weight: least(one.cpu_weight, other.cpu_weight),
    }
}

/// Returns the smaller of two bounds; `None` means no bound.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
