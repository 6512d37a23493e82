//! Policies in use: an enforced set, and optionally a shadow set.

use crate::{
    decision::{PolicyDecision, ShadowDifference},
    error::PolicyError,
    request::PolicyRequest,
    set::PolicySet,
    vocabulary::Vocabulary,
};
use agentd_disk::DiskError;
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// The folder of the enforced policies.
const ENFORCED: &str = "enforced";

/// The folder of the shadow policies.
const SHADOW: &str = "shadow";

/// Policies in use. They are reloaded without an interruption: a request is decided by one set from beginning to end.
#[derive(Debug)]
pub struct LivePolicies {
    folder: PathBuf,
    vocabulary: Vocabulary,
    current: RwLock<Arc<PolicySets>>,
}

/// The enforced set, and the set that is only compared with it.
#[derive(Debug)]
pub struct PolicySets {
    /// The set that decides.
    pub enforced: PolicySet,
    /// The set whose decisions are compared, never enforced.
    pub shadow: Option<PolicySet>,
    /// True if the enforced set is the default policy, because the folder does not exist.
    pub is_default: bool,
}

/// The meaning of a missing folder of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// No policies were written: the default policy is enforced.
    UseDefault,
    /// The policies were lost: loading them is an error.
    Fail,
}

impl PolicySets {
    /// Loads the sets `enforced` and `shadow` of a folder. The shadow set may be missing. If the folder exists, a missing
    /// enforced set is always an error.
    ///
    /// # Errors
    /// As for [`PolicySet::load`]; [`PolicyError::Lost`] if the folder does not exist and must.
    pub fn load(folder: &Path, vocabulary: &Vocabulary, missing: IfMissing) -> Result<Self, PolicyError> {
        if !exists(folder)? {
            return match missing {
                IfMissing::Fail => Err(PolicyError::Lost(folder.to_owned())),
                IfMissing::UseDefault => {
                    Ok(Self { enforced: PolicySet::default_policy(vocabulary)?, shadow: None, is_default: true })
                }
            };
        }
        let enforced = folder.join(ENFORCED);
        if !exists(&enforced)? {
            return Err(PolicyError::NotEnforced(enforced));
        }
        let enforced = PolicySet::load(&enforced, vocabulary)?;
        let shadow = folder.join(SHADOW);
        let shadow = if exists(&shadow)? { Some(PolicySet::load(&shadow, vocabulary)?) } else { None };
        Ok(Self { enforced, shadow, is_default: false })
    }

    /// Decides about a request, and compares the decision with that of the shadow set.
    pub fn decide(&self, request: &PolicyRequest) -> (PolicyDecision, Option<ShadowDifference>) {
        let decision = self.enforced.decide(request);
        let difference = self.shadow.as_ref().and_then(|shadow| ShadowDifference::between(&decision, &shadow.decide(request)));
        (decision, difference)
    }
}

impl LivePolicies {
    /// Loads the policies of a folder ([`PolicySets::load`]).
    ///
    /// # Errors
    /// As for [`PolicySets::load`].
    pub fn open(folder: &Path, vocabulary: Vocabulary, missing: IfMissing) -> Result<Self, PolicyError> {
        let sets = PolicySets::load(folder, &vocabulary, missing)?;
        Ok(Self { folder: folder.to_owned(), vocabulary, current: RwLock::new(Arc::new(sets)) })
    }

    /// Returns the sets in use.
    pub fn current(&self) -> Arc<PolicySets> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads the folder again, and returns the new sets. After an error, the sets in use stay. It is an error if the folder was
    /// in use and does not exist any more.
    ///
    /// # Errors
    /// As for [`PolicySets::load`].
    pub fn reload(&self) -> Result<Arc<PolicySets>, PolicyError> {
        let missing = if self.current().is_default { IfMissing::UseDefault } else { IfMissing::Fail };
        let sets = Arc::new(PolicySets::load(&self.folder, &self.vocabulary, missing)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = sets.clone();
        Ok(sets)
    }
}

fn exists(path: &Path) -> Result<bool, PolicyError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DiskError { operation: "stat", path: path.to_owned(), source }.into()),
    }
}
