//! A set of valid policies, and its decisions.

use crate::{
    decision::{Denial, PolicyDecision, PolicyOutcome},
    error::PolicyError,
    facts::{CedarQuestion, EntityTypes, Facts},
    folder::{PolicyFile, read_file, read_folder},
    obligations::Obligations,
    parse,
    request::{PolicyRequest, Resource},
    vocabulary::Vocabulary,
};
use cedar_policy::{AuthorizationError, Authorizer, Decision, Schema};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

/// The default policy, which holds if no other policy exists. It is made for one developer.
const DEFAULT: &str = include_str!("default.cedar");

/// A set of valid policies. The policies are parsed once; a decision parses nothing.
pub struct PolicySet {
    pub(crate) cedar: cedar_policy::PolicySet,
    pub(crate) schema: Schema,
    pub(crate) types: EntityTypes,
    pub(crate) vocabulary: Vocabulary,
    /// The obligations of each permit, by its `@id`.
    obligations: BTreeMap<String, Obligations>,
    digest: String,
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet").field("policies", &self.len()).field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl PolicySet {
    /// Loads all files of a folder whose names end in `.cedar`.
    ///
    /// # Errors
    /// As for [`read_folder`] and [`PolicySet::parse`].
    pub fn load(folder: &Path, vocabulary: &Vocabulary) -> Result<Self, PolicyError> {
        Self::parse(&read_folder(folder)?, vocabulary)
    }

    /// Loads one file.
    ///
    /// # Errors
    /// As for [`read_file`] and [`PolicySet::parse`].
    pub fn load_file(file: &Path, vocabulary: &Vocabulary) -> Result<Self, PolicyError> {
        Self::parse(&[read_file(file)?], vocabulary)
    }

    /// Returns the default policy ([`PolicySet::default_text`]).
    ///
    /// # Errors
    /// As for [`PolicySet::parse`].
    pub fn default_policy(vocabulary: &Vocabulary) -> Result<Self, PolicyError> {
        let file = PolicyFile { name: "default policy".to_owned(), text: DEFAULT.to_owned() };
        Self::parse(&[file], vocabulary)
    }

    /// Returns the text of the default policy.
    pub fn default_text() -> &'static str {
        DEFAULT
    }

    /// Parses and validates policies. One problem refuses all of them.
    ///
    /// # Errors
    /// [`PolicyError::Refused`] with every problem that was found.
    pub fn parse(files: &[PolicyFile], vocabulary: &Vocabulary) -> Result<Self, PolicyError> {
        let schema = vocabulary.compile()?;
        let types = EntityTypes::new().ok_or_else(|| PolicyError::Schema("a name of an entity type is refused".to_owned()))?;
        let parse::Parsed { cedar, obligations } = parse::parse(files, vocabulary, &schema)?;
        Ok(Self { cedar, schema, types, vocabulary: vocabulary.clone(), obligations, digest: digest(files) })
    }

    /// Returns the number of policies.
    pub fn len(&self) -> usize {
        self.cedar.num_of_policies()
    }

    /// Returns the `@id` of each policy, sorted.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.cedar.policies().map(|policy| policy.id().to_string()).collect();
        ids.sort();
        ids
    }

    /// Returns true if the set has no policy, and thus denies every request.
    pub fn is_empty(&self) -> bool {
        self.cedar.is_empty()
    }

    /// Returns the SHA-256 digest of the policy files, in hexadecimal digits. It identifies the set in records.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Decides about a request. Every resource must be permitted, and no policy may fail: the result of a policy that fails is
    /// unknown, and so are the obligations that it would add.
    pub fn decide(&self, request: &PolicyRequest) -> PolicyDecision {
        let mut policies = BTreeSet::new();
        let outcome = match self.decide_all(request, &mut policies) {
            Ok(obligations) => PolicyOutcome::Permitted(Box::new(obligations)),
            Err(denial) => PolicyOutcome::Denied(denial),
        };
        PolicyDecision { outcome, policies: policies.into_iter().collect() }
    }

    fn decide_all(&self, request: &PolicyRequest, policies: &mut BTreeSet<String>) -> Result<Obligations, Denial> {
        let facts = Facts::new(request, &self.vocabulary, (&self.types, &self.schema))?;
        let mut all: Option<Obligations> = None;
        for resource in resources(request) {
            let question = facts.about(resource)?;
            let own = self.decide_one(&question, resource).map_err(|(denial, determining)| {
                *policies = determining;
                denial
            })?;
            for id in own {
                if let Some(obligations) = self.obligations.get(&id) {
                    all = Some(all.map_or_else(|| obligations.clone(), |all| all.meet(obligations)));
                }
                policies.insert(id);
            }
        }
        match all {
            Some(obligations) if obligations.backends.is_empty() => Err(Denial::NoBackend),
            Some(obligations) => Ok(obligations),
            None => Err(Denial::Invalid("no policy determined the decision".to_owned())),
        }
    }

    /// Returns the permits that determine the decision about one resource, or the denial and the policies that determine it.
    fn decide_one(
        &self,
        question: &CedarQuestion,
        resource: Option<&Resource>,
    ) -> Result<BTreeSet<String>, (Denial, BTreeSet<String>)> {
        let response = Authorizer::new().is_authorized(&question.request, &self.cedar, &question.entities);
        let mut determining: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        let resource = in_words(resource);
        let errors: Vec<_> = response.diagnostics().errors().collect();
        if !errors.is_empty() {
            let failed = errors.iter().map(|AuthorizationError::PolicyEvaluationError(error)| error.policy_id().to_string());
            if response.decision() == Decision::Allow {
                determining = failed.collect();
            } else {
                determining.extend(failed);
            }
            return Err((Denial::Failed(errors.iter().map(ToString::to_string).collect()), determining));
        }
        match response.decision() {
            Decision::Allow => Ok(determining),
            Decision::Deny if determining.is_empty() => Err((Denial::NoPermit { resource }, determining)),
            Decision::Deny => {
                let ids = response.diagnostics().reason();
                let reasons = ids.filter_map(|id| self.cedar.annotation(id, "reason")).map(str::to_owned);
                let reasons: BTreeSet<String> = reasons.collect();
                Err((Denial::Forbidden { resource, reasons: reasons.into_iter().collect() }, determining))
            }
        }
    }
}

/// Returns the resources of a request; the installation, if there are none.
pub(crate) fn resources(request: &PolicyRequest) -> Vec<Option<&Resource>> {
    if request.resources.is_empty() { vec![None] } else { request.resources.iter().map(Some).collect() }
}

/// Describes a resource in words.
pub(crate) fn in_words(resource: Option<&Resource>) -> String {
    resource.map_or_else(|| "the installation".to_owned(), ToString::to_string)
}

fn digest(files: &[PolicyFile]) -> String {
    let mut sha = Sha256::new();
    for file in files {
        // Each text follows its length, so that no two sets of files have the same bytes.
        sha.update(u64::try_from(file.text.len()).unwrap_or(u64::MAX).to_be_bytes());
        sha.update(file.text.as_bytes());
    }
    HEXLOWER.encode(&sha.finalize())
}
