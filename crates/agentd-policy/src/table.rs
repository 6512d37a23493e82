//! Tables of requests with expected decisions, which test policies.

use crate::{
    explain::{Explanation, explain},
    obligations::{AnnotationProblem, Obligations},
    request::{PolicyPrincipal, PrincipalKind, RequestSource},
    set::PolicySet,
    written::{AnnotationText, WrittenDefaults, WrittenRequest},
};
use agentd_records::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A table of requests with expected decisions, in TOML.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTable {
    /// The rows.
    #[serde(rename = "test")]
    pub tests: Vec<PolicyTest>,
}

/// A row: a request, and what the policies must decide.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTest {
    /// The expectation of the row.
    pub name: String,
    /// The request. Unless stated, the principal is the user `test`, the time 2026-01-01 12:00 UTC, and the source
    /// `local-socket`.
    pub request: WrittenRequest,
    /// The expected decision.
    pub expect: Expected,
    /// The policies that must determine the decision. Unless stated, they are not compared.
    pub policies: Option<BTreeSet<String>>,
    /// The obligations that must hold: names and values of annotations. Others are not compared.
    #[serde(default)]
    pub obligations: BTreeMap<String, AnnotationText>,
}

/// The expected decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// The request is permitted.
    Permit,
    /// The request is denied.
    Deny,
    /// The policies permit the request, but the caller requests a weaker confinement than they permit.
    Exceed,
}

/// The result of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The name of the row.
    pub name: String,
    /// The differences from the expectation; empty if there are none.
    pub differences: Vec<String>,
    /// The explanation of the decision; `None` if the row cannot be read.
    pub explanation: Option<Explanation>,
}

impl Expected {
    fn word(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Deny => "deny",
            Self::Exceed => "exceed",
        }
    }
}

impl PolicyTable {
    /// Parses a table.
    ///
    /// # Errors
    /// The text is not such a table.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Decides about the request of every row, and compares the decision with the expectation.
    pub fn run(&self, policies: &PolicySet) -> Vec<TestResult> {
        self.tests.iter().map(|test| test.run(policies)).collect()
    }
}

impl PolicyTest {
    fn run(&self, policies: &PolicySet) -> TestResult {
        let backends: Vec<&str> = policies.vocabulary.backends().collect();
        let failed = |problem: &AnnotationProblem| TestResult {
            name: self.name.clone(),
            differences: vec![format!("the row cannot be read: {problem}")],
            explanation: None,
        };
        let (request, requested) = match self.request.clone().complete(&defaults(), &backends) {
            Ok(complete) => complete,
            Err(problem) => return failed(&problem),
        };
        let explanation = explain(policies, &request, &requested);
        match self.differences(&explanation, &backends) {
            Ok(differences) => TestResult { name: self.name.clone(), differences, explanation: Some(explanation) },
            Err(problem) => failed(&problem),
        }
    }

    fn differences(&self, explanation: &Explanation, backends: &[&str]) -> Result<Vec<String>, AnnotationProblem> {
        let mut differences = Vec::new();
        let is = match &explanation.confinement {
            None => Expected::Deny,
            Some(Ok(_)) => Expected::Permit,
            Some(Err(_)) => Expected::Exceed,
        };
        if is != self.expect {
            differences.push(format!("expected {}, is {}", self.expect.word(), is.word()));
        }
        let determining: BTreeSet<String> = explanation.decision.policies.iter().cloned().collect();
        if let Some(expected) = self.policies.as_ref().filter(|expected| **expected != determining) {
            differences.push(format!("expected the policies {}, determined by {}", list(expected), list(&determining)));
        }
        let is = explanation.decision.obligations();
        for (name, text) in &self.obligations {
            let expected = values(name, text, backends)?;
            let is = is.map(|is| of_name(is, name)).unwrap_or_default();
            if expected != is {
                differences.push(format!("expected @{name} {}, is {}", list(&expected), list(&is)));
            }
        }
        Ok(differences)
    }
}

/// Returns the values in words.
fn list(values: &BTreeSet<String>) -> String {
    if values.is_empty() { "none".to_owned() } else { values.iter().map(String::as_str).collect::<Vec<_>>().join(", ") }
}

/// Returns the values of an annotation in the form in which they are compared.
fn values(name: &str, text: &AnnotationText, backends: &[&str]) -> Result<BTreeSet<String>, AnnotationProblem> {
    let mut read = Obligations::usual(BTreeSet::new());
    if name == "approval" {
        for text in text.texts() {
            read.set(name, &text, backends)?;
        }
        return Ok(text.texts());
    }
    read.set(name, &text.joined(), backends)?;
    Ok(of_name(&read, name))
}

fn of_name(obligations: &Obligations, name: &str) -> BTreeSet<String> {
    let all = obligations.annotations().into_iter();
    all.filter(|(own, _)| *own == name).map(|(_, value)| value).collect()
}

/// Returns what a row does not state. The time is fixed, so that a row has the same result on every day.
fn defaults() -> WrittenDefaults {
    let noon = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_767_268_800);
    let principal = PolicyPrincipal { kind: PrincipalKind::User, name: "test".to_owned(), groups: Vec::new(), acts_for: None };
    let source = RequestSource { transport: "local-socket".to_owned(), address: None };
    WrittenDefaults { principal, time: Timestamp::from(noon), source }
}
