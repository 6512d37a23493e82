//! Errors of loading policies.

use crate::obligations::AnnotationProblem;
use agentd_disk::DiskError;
use std::{fmt, path::PathBuf};

/// The reason why policies are refused. A set of policies is refused as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A file could not be read.
    #[error("read policies: {0}")]
    Disk(#[from] DiskError),
    /// Somebody else may change a file or directory.
    #[error("read policies: {path:?}: {problem}")]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// The problem and the remedy.
        problem: &'static str,
    },
    /// The policies are too large.
    #[error("read policies: {path:?}: more than {limit} — split the policies, or remove some")]
    TooLarge {
        /// The file or directory.
        path: PathBuf,
        /// The limit.
        limit: &'static str,
    },
    /// The folder has no policies.
    #[error("read policies: {0:?}: no file name in it ends in .cedar — add policies, or name another directory")]
    Empty(PathBuf),
    /// The folder of policies does not exist, although policies were in use.
    #[error("read policies: {0:?}: the directory does not exist any more — restore it")]
    Lost(PathBuf),
    /// There is no enforced set, although the folder of policies exists.
    #[error(
        "read policies: {0:?}: the directory does not exist, so no policy would hold — create it, and write policies into it \
         (`agentd policy default` prints those that hold without a directory of policies)"
    )]
    NotEnforced(PathBuf),
    /// A text is not a set of valid policies.
    #[error("policies are refused: {}", lines(.0))]
    Refused(Vec<PolicyProblem>),
    /// The name of a capability cannot be used in policies.
    #[error("capability {0:?}: the name does not have the form area.verb.v1 — rename the capability")]
    Capability(String),
    /// The schema cannot be built from the capabilities.
    #[error("build the schema of policies: {0} — change the JSON Schema of the capability's parameters")]
    Schema(String),
}

/// A problem in a policy, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The file.
    pub file: String,
    /// The line, from 1; `None` if it is unknown.
    pub line: Option<usize>,
    /// The `@id` of the policy; `None` if it is unknown.
    pub policy: Option<String>,
    /// The kind of the problem.
    pub problem: ProblemKind,
}

/// The kind of a problem in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The text is not Cedar.
    #[error("{0}")]
    Syntax(String),
    /// The policy does not match the schema.
    #[error("{0}")]
    Invalid(String),
    /// A policy has no `@id`, or one with other characters.
    #[error("a policy needs the annotation @id with 1 to 64 letters, digits, `.`, `_` and `-`")]
    NoId,
    /// Two policies have the same `@id`.
    #[error("another policy has the same @id — choose another name")]
    SameId,
    /// The policy is a template.
    #[error("templates (?principal, ?resource) are not supported — name the principal and the resource")]
    Template,
    /// An annotation is refused.
    #[error(transparent)]
    Annotation(#[from] AnnotationProblem),
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(policy) = &self.policy {
            write!(f, ": policy {policy:?}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

fn lines(problems: &[PolicyProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
