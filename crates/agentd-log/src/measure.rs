//! Spans and events from which a program derives metrics and traces. Without a subscriber for [`MEASURED`], each costs a few
//! nanoseconds.
//!
//! Their fields are numbers, and words that agentd chooses. They never contain parameters, paths, hosts or output.

use tracing::{Span, field::Empty};

/// The target of these spans and events.
pub const MEASURED: &str = "agentd::measured";

/// The name of the span of a [`Stage`].
pub const STAGE: &str = "stage";

/// A stage of an intent. Its span lasts as long as the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Comparing the parameters with their schema.
    Validate,
    /// Asking the policies.
    Policy,
    /// Deciding, and reserving quota.
    Admit,
    /// Waiting for an approval, for a duplicate or for a turn.
    Queue,
    /// Selecting a backend, and creating the sandbox.
    Sandbox,
    /// Executing in the sandbox.
    Exec,
    /// Recording: one commit of the audit log.
    Record,
}

impl Stage {
    /// All stages, in the order of an intent.
    pub const ALL: [Self; 7] = [Self::Validate, Self::Policy, Self::Admit, Self::Queue, Self::Sandbox, Self::Exec, Self::Record];

    /// Returns the name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Policy => "policy",
            Self::Admit => "admit",
            Self::Queue => "queue",
            Self::Sandbox => "sandbox",
            Self::Exec => "exec",
            Self::Record => "record",
        }
    }

    /// Returns a new span of this stage. The caller records the field `backend` once the backend is known.
    pub fn span(self) -> Span {
        tracing::info_span!(target: MEASURED, STAGE, stage = self.name(), backend = Empty)
    }
}

/// A fact that a program may count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CountedFact<'a> {
    /// An intent has ended.
    Outcome {
        /// The reason, as records contain it.
        reason: &'a str,
    },
    /// A sandbox was taken from a pool.
    PoolTake {
        /// True if the sandbox had been created in advance.
        idle: bool,
    },
    /// Something that a killed process left behind was removed.
    Swept {
        /// The kind: `cgroup` or `directory`.
        kind: &'a str,
        /// How many were removed.
        number: u64,
    },
    /// The gateway has decided about connections or name lookups of a sandbox.
    Egress {
        /// True if they were allowed.
        allowed: bool,
        /// How many there were.
        number: u64,
    },
}

impl CountedFact<'_> {
    /// Reports the fact to the program's subscriber.
    pub fn emit(self) {
        let (counted, label, number) = match self {
            Self::Outcome { reason } => ("outcome", reason, 1),
            Self::PoolTake { idle } => ("pool", if idle { "hit" } else { "miss" }, 1),
            Self::Swept { kind, number } => ("swept", kind, number),
            Self::Egress { allowed, number } => ("egress", if allowed { "allowed" } else { "refused" }, number),
        };
        if number > 0 {
            tracing::debug!(target: MEASURED, counted, label, number);
        }
    }
}
