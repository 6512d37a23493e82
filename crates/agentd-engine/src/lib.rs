//! Admits or refuses requests to use capabilities, and records their outcomes.
//!
//! 1. A [`Capability`] is described by a manifest: the schema of its parameters, how it is executed, and the widest sandbox that
//!    it gets. The [`CapabilityRegistry`] has those that agentd contains, and those of the operator.
//! 2. An [`Intent`] is one request. [`ValidIntent`] is an intent that matches its capability.
//! 3. [`admit`] decides whether a valid intent is executed. The function has no effects.
//! 4. The [`Engine`] applies the decision. It returns an [`Execution`], which the caller carries out in a sandbox under the
//!    [`Terms`], and then finishes.
//! 5. A [`QuotaSet`] limits what principals use. An intent that exceeds a limit of concurrency waits for its turn.
//! 6. [`Engine::reload`] replaces policies and quotas without an interruption. Each change is recorded in the audit log.
//! 7. Every intent ends in an [`EndedIntent`] with a signed receipt. The audit log gets a leaf each for request, decision,
//!    approval and outcome. Records contain digests of parameters and results, never the values.
//!
//! The crate starts no process and creates no sandbox.

mod admission;
mod approval;
mod approval_text;
mod begun_intent;
mod capability;
mod configuration;
mod destinations;
mod ended;
mod engine;
mod error;
mod execution;
pub mod fuzz;
mod intent;
mod intent_records;
mod outcome;
mod parameters;
mod quota;
mod recent_leaves;
mod recovery;
mod refusal;
mod requested_secret;
mod schema;
mod set_digest;
mod valid_intent;

pub use admission::{AdmissionBounds, AdmissionDecision, Terms, admit};
pub use capability::{
    Annotations, Argument, ArgumentError, Capability, CapabilityRegistry, CommandLine, CommandTemplate, MAX_MANIFEST,
    ManifestError, NEW_SESSION, OutputForm, RegistryError, RequestedPty, Run, SandboxBounds, SandboxCall, SandboxCapability,
    SessionCall, SessionTemplate, StdinTemplate, Substitution, UnknownCapability, WorkspaceAccess,
};
pub use configuration::Reloaded;
pub use destinations::DestinationRefusal;
pub use ended::EndedIntent;
pub use engine::{Engine, EngineParts, Submitted, vocabulary};
pub use error::EngineError;
pub use execution::{Executed, Execution, HeldIntent};
pub use intent::{Intent, RequestedWorkspace};
pub use outcome::{CellResult, RunResult, SandboxFailure};
pub use parameters::{MAX_PARAMETERS, ParametersError, parse_parameters};
pub use quota::{LiveQuotas, PrincipalQuota, QuotaError, QuotaProblem, QuotaSet};
pub use refusal::Refusal;
pub use requested_secret::SecretRefusal;
pub use schema::{Schema, SchemaError, Violation, Violations};
pub use valid_intent::{Operation, ValidIntent};
