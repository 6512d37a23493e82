//! Stores the results of probes for all programs of this user, so that a backend is probed once per boot and not once per
//! process.
//!
//! An entry is trusted because no sandbox can write it: the file lies in a folder of [`crate::own_state`]. Entries are only read
//! for agentd's backends that have a boundary, not for `host-direct` or for backends of an embedding program.

pub(crate) mod fuzz;
mod key;

use crate::{data_directory, own_state, registry::ProofFiles};
use agentd_core::{BackendCapabilities, Claim, Evidence, EvidenceResult};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The maximum number of entries kept for each backend. There is one entry for each pair of a program that uses the backend and a
/// state of the machine.
const MAX_ENTRIES: usize = 16;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeptProof {
    key: String,
    proven: BackendCapabilities,
}

/// The stored proofs that apply to probes with targets below one directory.
pub(crate) struct Proofs {
    folder: Option<OwnedFd>,
    /// The backends whose proofs are stored, by canonical name, and the files that each of them uses.
    kept: Vec<(String, ProofFiles)>,
    work_root: PathBuf,
}

impl Proofs {
    /// Opens the stored proofs of this user. If no folder for them can be opened, nothing is stored or returned.
    pub fn open(kept: Vec<(String, ProofFiles)>, work_root: &Path) -> Self {
        Self { folder: own_state::cache_folder(), kept, work_root: work_root.to_path_buf() }
    }

    #[cfg(test)]
    pub fn within(folder: OwnedFd, kept: Vec<(String, ProofFiles)>) -> Self {
        Self { folder: Some(folder), kept, work_root: std::env::temp_dir() }
    }

    /// Returns the capabilities that `backend` proved under the present conditions; `None` if the backend must be probed.
    pub fn get(&self, backend: &str) -> Option<BackendCapabilities> {
        let key = self.key(backend)?;
        self.entries(backend)
            .into_iter()
            .find(|entry| entry.key == key && entry.proven.name == backend)
            .map(KeptProof::capabilities)
    }

    /// Stores the result of a probe, unless a failure may be transient: nothing was proven, or an attack on the boundary could
    /// not be tried. A resource limit that could not be tried does not prevent this, because a missing cgroup is missing for the
    /// whole boot. If a result is not stored, the next process probes again.
    pub fn keep(&self, proven: &BackendCapabilities) {
        let not_tried = |evidence: &Evidence| matches!(evidence.result, EvidenceResult::NotTried(_));
        if proven.score() == 0 || proven.evidence.iter().any(|evidence| evidence.claim != Claim::Resources && not_tried(evidence))
        {
            return;
        }
        let Some(key) = self.key(&proven.name) else { return };
        self.change(&proven.name, &key, Some(proven.clone()));
    }

    /// Removes the proof of `backend` under the present conditions.
    pub fn forget(&self, backend: &str) {
        if let Some(key) = self.key(backend) {
            self.change(backend, &key, None);
        }
    }

    /// Returns the digest of the present conditions. `None` if proofs of `backend` are not stored, or the kernel does not provide
    /// a condition.
    fn key(&self, backend: &str) -> Option<String> {
        let (name, files) = self.kept.iter().find(|(name, _)| name == backend)?;
        let files = data_directory().map(|data| files(&data)).unwrap_or_default();
        key::digest(name, &self.work_root, &files)
    }

    /// Returns the folder of the entries. `None` if there is no folder, or proofs of `backend` are not stored.
    fn folder_of(&self, backend: &str) -> Option<&OwnedFd> {
        self.folder.as_ref().filter(|_| self.kept.iter().any(|(name, _)| name == backend))
    }

    /// Replaces or removes the entry of a key. If two processes write at the same time, one entry is lost and its backend is
    /// probed again.
    fn change(&self, backend: &str, key: &str, proven: Option<BackendCapabilities>) {
        let Some(folder) = self.folder_of(backend) else { return };
        let mut entries = self.entries(backend);
        entries.retain(|entry| entry.key != key);
        entries.extend(proven.map(|proven| KeptProof { key: key.to_owned(), proven }));
        let surplus = entries.len().saturating_sub(MAX_ENTRIES);
        entries.drain(..surplus);
        let written = serde_json::to_vec(&entries).map_err(Into::into);
        if let Err(error) = written.and_then(|bytes| own_state::replace(folder.as_fd(), &file(backend), &bytes)) {
            tracing::warn!(backend, %error, "failed: store the result of the probe; the next process probes again");
        }
    }

    fn entries(&self, backend: &str) -> Vec<KeptProof> {
        let Some(folder) = self.folder_of(backend) else { return Vec::new() };
        let content = own_state::read(folder.as_fd(), &file(backend));
        content.map(|bytes| parse(&bytes)).unwrap_or_default()
    }
}

impl KeptProof {
    /// Returns the capabilities that the entry's evidence supports. The stored claims themselves are not trusted.
    fn capabilities(self) -> BackendCapabilities {
        let BackendCapabilities {
            name, persistent_sandboxes, snapshots, available_profiles, platform_features, evidence, ..
        } = self.proven;
        BackendCapabilities {
            persistent_sandboxes,
            snapshots,
            available_profiles,
            platform_features,
            ..BackendCapabilities::from_evidence(&name, evidence)
        }
    }
}

/// Parses the entries of a file. A damaged file, or a file of another version, has no entries.
fn parse(bytes: &[u8]) -> Vec<KeptProof> {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn file(backend: &str) -> String {
    format!("proven-{backend}.json")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
