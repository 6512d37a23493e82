//! Decides what a principal may do: policies in the language Cedar, decisions, and the obligations that come with a permission.
//!
//! 1. [`Vocabulary`] has the names that policies may use: capabilities with their parameters (`parameter`), and backends. The
//!    Cedar schema is derived from the vocabulary.
//! 2. [`PolicySet`] is a set of policies that were read from a folder that nobody else may change ([`read_folder`]) and validated
//!    (`parse`).
//! 3. [`PolicySet::decide`] turns a [`PolicyRequest`] into entities and a context (`facts`), and returns a [`PolicyDecision`]
//!    with the [`Obligations`] of all permits that determined it. A request is denied if any step fails.
//! 4. [`Obligations::apply`] compares what a caller requests with what the policies permit.
//! 5. [`LivePolicies`] reloads sets, and compares the enforced set with a shadow set.
//!
//! [`explain()`] states what would have to change for a request to be permitted, and [`PolicyTable`] tests policies.
//!
//! No type of Cedar is public, and no other crate depends on Cedar, whose build takes longer than that of agentd.
//!
//! ```
//! use agentd_policy::{PolicyFile, PolicyRequest, PolicySet, RequestedConfinement, Vocabulary};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let parameters = serde_json::json!({ "type": "object", "properties": { "command": { "type": "string" } } });
//! let vocabulary = Vocabulary::default().capability("shell.exec.v1", &parameters, ["destructive"])?.backend("container", true);
//! let text = r#"@id("ci") @profile("strict") @timeout("30s") permit (principal == Agent::"ci", action, resource);"#;
//! let file = PolicyFile { name: "ci.cedar".to_owned(), text: text.to_owned() };
//! let policies = PolicySet::parse(&[file], &vocabulary)?;
//! let request: PolicyRequest = serde_json::from_value(serde_json::json!({
//!     "principal": { "kind": "agent", "name": "ci" },
//!     "capability": "shell.exec.v1",
//!     "parameters": { "command": "make" },
//!     "time": "2026-01-31T12:00:00.000000Z",
//!     "source": { "transport": "local-socket" },
//! }))?;
//! let decision = policies.decide(&request);
//! let obligations = decision.obligations().ok_or("denied")?;
//! let effective = obligations.apply(&RequestedConfinement::default())?;
//! assert_eq!(effective.limits.wall, Some(std::time::Duration::from_secs(30)));
//! # Ok(())
//! # }
//! ```

mod decision;
mod error;
mod explain;
mod facts;
mod folder;
#[doc(hidden)]
pub mod fuzz;
mod live;
#[cfg(test)]
mod live_tests;
mod obligations;
mod parameter;
mod parse;
mod request;
mod set;
#[cfg(test)]
mod set_tests;
mod table;
mod vocabulary;
mod written;

pub use decision::{Denial, PolicyDecision, PolicyOutcome, ShadowDifference};
pub use error::{PolicyError, PolicyProblem, ProblemKind};
pub use explain::{ExplainedPolicy, Explanation, explain};
pub use folder::{PolicyFile, read_file, read_folder};
pub use live::{IfMissing, LivePolicies, PolicySets};
pub use obligations::{
    ANNOTATIONS, AnnotationProblem, Effective, Exceeded, Excess, NetworkBound, Obligations, RequestedConfinement,
};
pub use request::{PolicyPrincipal, PolicyRequest, PrincipalKind, RequestSource, RequestedSecret, Resource};
pub use set::PolicySet;
pub use table::{Expected, PolicyTable, PolicyTest, TestResult};
pub use vocabulary::Vocabulary;
pub use written::{AnnotationText, WrittenDefaults, WrittenRequest};
