//! Opens the parts of this user's engine: capabilities, policies, records and state, from the data folder.

use super::super::{data, failure::Failure, quota, records};
use crate::isolation::{available_backends, backends_with};
use agentd_disk::{TrustError, read_trusted_folder};
use agentd_engine::{CapabilityRegistry, Engine, EngineParts, LiveQuotas, vocabulary};
use agentd_policy::{IfMissing, LivePolicies, Vocabulary};
use agentd_state::{Retention, StateStore};
use std::{collections::BTreeSet, io::ErrorKind};

/// Returns all capabilities: those that agentd contains, and the manifests in the folder `capabilities` of the data folder.
///
/// # Errors
/// A manifest is refused, or somebody else may change one.
pub(in super::super) fn registry() -> Result<CapabilityRegistry, Failure> {
    let folder = data::folder()?.join("capabilities");
    let files = match read_trusted_folder(&folder, "toml") {
        Err(TrustError::Disk(error)) if error.source.kind() == ErrorKind::NotFound && !folder.exists() => Vec::new(),
        files => files.map_err(|error| format!("read capability manifests: {error}"))?,
    };
    Ok(CapabilityRegistry::built_in()?.with(files.into_iter().map(|file| (file.name, file.text)))?)
}

/// Returns the names of all backends, each with true if it has a boundary.
fn backends() -> Vec<(String, bool)> {
    let isolated = backends_with(&std::env::temp_dir(), |traits| traits.boundary);
    available_backends().into_iter().map(|name| (name.clone(), isolated.contains(&name))).collect()
}

/// Returns the words that policies may use.
///
/// # Errors
/// As for [`registry`].
pub(in super::super) fn words(capabilities: &CapabilityRegistry) -> Result<Vocabulary, Failure> {
    let backends = backends();
    Ok(vocabulary(capabilities, backends.iter().map(|(name, boundary)| (name.as_str(), *boundary)))?)
}

/// Opens the engine of this user, and ends the intents that a crash interrupted.
///
/// # Errors
/// A part cannot be opened. No intent is executed then.
pub(in super::super) async fn engine() -> Result<Engine, Failure> {
    let capabilities = registry()?;
    let policies = LivePolicies::open(&data::folder()?.join("policy"), words(&capabilities)?, IfMissing::UseDefault)?;
    let quotas = LiveQuotas::open(&quota::file()?)?;
    let isolated: BTreeSet<String> = backends().into_iter().filter(|(_, boundary)| *boundary).map(|(name, _)| name).collect();
    let records = records::records()?;
    // Generates a key if there is none, before an intent is recorded.
    records.keys()?;
    let state = StateStore::open(&data::folder()?.join("state"), Retention::default())?;
    let operator = records::principal()?;
    Ok(Engine::start(EngineParts { capabilities, policies, isolated, quotas, state, records, operator }).await?)
}
