//! Parses and validates policies.

use crate::{
    error::{PolicyError, PolicyProblem, ProblemKind},
    folder::PolicyFile,
    obligations::{ANNOTATIONS, AnnotationProblem, Obligations},
    vocabulary::Vocabulary,
};
use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use std::collections::BTreeMap;

/// Annotations that every policy may have.
const DESCRIBING: [&str; 2] = ["id", "description"];

/// Policies that were parsed and validated.
pub(crate) struct Parsed {
    pub(crate) cedar: PolicySet,
    pub(crate) obligations: BTreeMap<String, Obligations>,
}

/// Parses the files and validates all policies together.
///
/// # Errors
/// [`PolicyError::Refused`] with the problems of the first step that found some: syntax and annotations, then validation.
pub(crate) fn parse(files: &[PolicyFile], vocabulary: &Vocabulary, schema: &Schema) -> Result<Parsed, PolicyError> {
    let mut reading = Reading::of(vocabulary);
    for file in files {
        reading.file(file);
    }
    let Reading { cedar, obligations, origins, mut problems, .. } = reading;
    if problems.is_empty() {
        problems = validate(&cedar, schema, &origins);
    }
    if problems.is_empty() { Ok(Parsed { cedar, obligations }) } else { Err(PolicyError::Refused(problems)) }
}

/// The policies and problems that were found in the files so far.
struct Reading<'a> {
    vocabulary: &'a Vocabulary,
    cedar: PolicySet,
    obligations: BTreeMap<String, Obligations>,
    /// The file of each policy.
    origins: BTreeMap<String, &'a PolicyFile>,
    problems: Vec<PolicyProblem>,
}

impl<'a> Reading<'a> {
    fn of(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, cedar: PolicySet::new(), obligations: BTreeMap::new(), origins: BTreeMap::new(), problems: Vec::new() }
    }

    fn file(&mut self, file: &'a PolicyFile) {
        let parsed = match file.text.parse::<PolicySet>() {
            Ok(parsed) => parsed,
            Err(errors) => {
                let problem = ProblemKind::Syntax(with_help(&errors));
                self.problems.push(PolicyProblem { file: file.name.clone(), line: line(file, &errors), policy: None, problem });
                return;
            }
        };
        if parsed.templates().next().is_some() {
            self.problem(file, None, ProblemKind::Template);
        }
        for policy in parsed.policies() {
            self.policy(file, policy);
        }
    }

    fn problem(&mut self, file: &PolicyFile, policy: Option<&str>, problem: ProblemKind) {
        let policy = policy.map(str::to_owned);
        self.problems.push(PolicyProblem { file: file.name.clone(), line: None, policy, problem });
    }

    fn policy(&mut self, file: &'a PolicyFile, policy: &Policy) {
        let id = match policy.annotation("id") {
            Some(id) if is_id(id) => id.to_owned(),
            other => return self.problem(file, other, ProblemKind::NoId),
        };
        if self.cedar.add(policy.new_id(PolicyId::new(&id))).is_err() {
            return self.problem(file, Some(&id), ProblemKind::SameId);
        }
        match obligations(policy, self.vocabulary) {
            Ok(Some(own)) => drop(self.obligations.insert(id.clone(), own)),
            Ok(None) => {}
            Err(problem) => self.problem(file, Some(&id), problem.into()),
        }
        self.origins.insert(id, file);
    }
}

fn is_id(id: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=64).contains(&id.len()) && id.bytes().all(usual)
}

/// Returns the obligations of a permit; `None` for a forbid.
fn obligations(policy: &Policy, vocabulary: &Vocabulary) -> Result<Option<Obligations>, AnnotationProblem> {
    let backends: Vec<&str> = vocabulary.backends().collect();
    let mut own = Obligations::usual(vocabulary.isolated());
    let is_permit = policy.effect() == Effect::Permit;
    for (name, value) in policy.annotations().filter(|(name, _)| !DESCRIBING.contains(name)) {
        match (name, is_permit) {
            ("reason", true) => return Err(AnnotationProblem::Reason),
            ("reason", false) => {}
            (name, false) if ANNOTATIONS.contains(&name) => return Err(AnnotationProblem::Forbid(name.to_owned())),
            _ => own.set(name, value, &backends)?,
        }
    }
    Ok(is_permit.then_some(own))
}

/// Returns the errors and warnings of the strict validation. A warning concerns a policy that can never apply, or a text that
/// looks like another text.
fn validate(cedar: &PolicySet, schema: &Schema, origins: &BTreeMap<String, &PolicyFile>) -> Vec<PolicyProblem> {
    let result = Validator::new(schema.clone()).validate(cedar, ValidationMode::Strict);
    let problem = |id: &PolicyId, found: &dyn Diagnostic| {
        let id = id.to_string();
        let file = origins.get(&id);
        let text = with_help(found);
        // The message of a problem names the policy already.
        let text = text.strip_prefix(&format!("for policy `{id}`, ")).unwrap_or(&text).to_owned();
        PolicyProblem {
            file: file.map(|file| file.name.clone()).unwrap_or_default(),
            line: file.and_then(|file| line(file, found)),
            policy: Some(id),
            problem: ProblemKind::Invalid(text),
        }
    };
    let errors = result.validation_errors().map(|error| problem(error.policy_id(), error));
    let warnings = result.validation_warnings().map(|warning| problem(warning.policy_id(), warning));
    let mut all: Vec<_> = errors.chain(warnings).collect();
    // The same mistake is found once for each kind of request to which the policy applies.
    all.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    all.dedup();
    all
}

fn with_help(found: &dyn Diagnostic) -> String {
    match found.help() {
        Some(help) => format!("{found} ({help})"),
        None => found.to_string(),
    }
}

/// Returns the line of the place that a diagnostic marks.
fn line(file: &PolicyFile, found: &dyn Diagnostic) -> Option<usize> {
    let offset = found.labels()?.next()?.offset();
    Some(file.text.as_bytes().get(..offset)?.iter().filter(|byte| **byte == b'\n').count() + 1)
}
