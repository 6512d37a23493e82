//! Stores the results of probes for all programs of this user. A process probes a backend only if no result exists for the same
//! conditions: kernel, program, settings, namespaces, control group and others ([`key`]).
//!
//! Each proof is a file, named after the backend and the key of the conditions. A proof is trusted because no sandbox can write
//! it: the file lies in a folder of [`crate::own_state`]. Proofs are only read for agentd's backends that have a boundary, not
//! for `host-direct` or for backends of an embedding program.

pub(crate) mod fuzz;
mod key;

use crate::{data_directory, own_state, registry::ProofFiles};
use agentd_core::{BackendCapabilities, Claim, Evidence, EvidenceResult};
use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, Dir},
    io::Errno,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The maximum number of proofs that are stored for each backend. Each program, and each state of the host, has its own proof.
const MAX_PROOFS: usize = 16;

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
        Self { folder: own_state::trusted_folder(), kept, work_root: work_root.to_path_buf() }
    }

    #[cfg(test)]
    pub fn within(folder: OwnedFd, kept: Vec<(String, ProofFiles)>) -> Self {
        Self { folder: Some(folder), kept, work_root: std::env::temp_dir() }
    }

    /// Returns the capabilities that `backend` proved under the current conditions; `None` if the backend must be probed.
    pub fn get(&self, backend: &str) -> Option<BackendCapabilities> {
        let folder = self.folder_of(backend)?;
        let content = match own_state::read(folder.as_fd(), &file(backend, &self.key(backend)?)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read.or_debug("read the stored result of a probe", backend)?,
        };
        parse(&content).filter(|proven| proven.name == backend)
    }

    /// Stores the result of a probe, unless a failure may be transient: nothing was proven, or an attack on the boundary could
    /// not be tried. A resource limit that could not be tried does not prevent this, because a missing cgroup is missing for the
    /// whole boot. An attack on the gateway that could not be tried does not prevent this either, because few sandboxes have
    /// granted hosts. If a result is not stored, the next process probes again.
    pub fn keep(&self, proven: &BackendCapabilities) {
        let not_tried = |evidence: &Evidence| matches!(evidence.result, EvidenceResult::NotTried(_));
        let boundary = |evidence: &&Evidence| !matches!(evidence.claim, Claim::Resources | Claim::Egress);
        if proven.score() == 0 || proven.evidence.iter().filter(boundary).any(not_tried) {
            return;
        }
        let (Some(folder), Some(key)) = (self.folder_of(&proven.name), self.key(&proven.name)) else { return };
        if let Err(error) = store(folder, &key, proven) {
            tracing::warn!(
                backend = proven.name,
                %error,
                "failed: store the result of the probe; the next process probes again"
            );
        }
    }

    /// Removes the proof of `backend` under the current conditions.
    pub fn forget(&self, backend: &str) {
        let (Some(folder), Some(key)) = (self.folder_of(backend), self.key(backend)) else { return };
        let removed = rustix::fs::unlinkat(folder, file(backend, &key), AtFlags::empty());
        if removed != Err(Errno::NOENT) {
            removed.or_warn("remove the stored result of a probe", backend);
        }
    }

    /// Returns the digest of the current conditions. `None` if proofs of `backend` are not stored, or the kernel does not provide
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
}

/// Stores a proof, and removes the oldest ones of the backend above [`MAX_PROOFS`].
fn store(folder: &OwnedFd, key: &str, proven: &BackendCapabilities) -> io::Result<()> {
    own_state::replace(folder.as_fd(), &file(&proven.name, key), &serde_json::to_vec(proven)?)?;
    let mut kept = stored(folder, &proven.name)?;
    kept.sort();
    for (_, name) in kept.iter().rev().skip(MAX_PROOFS) {
        // Another process may have removed the file first. A file that remains is tried again with the next proof.
        rustix::fs::unlinkat(folder, name, AtFlags::empty()).or_debug("remove old result of a probe", name);
    }
    Ok(())
}

/// Returns the times and names of the stored proofs of a backend.
fn stored(folder: &OwnedFd, backend: &str) -> io::Result<Vec<((i64, u64), String)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let Ok(name) = entry?.file_name().to_owned().into_string() else { continue };
        let key = name.strip_prefix(&prefix(backend)).and_then(|rest| rest.strip_suffix(SUFFIX));
        if key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            // The file may be gone by now.
            let Ok(stat) = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            found.push(((stat.st_mtime, stat.st_mtime_nsec), name));
        }
    }
    Ok(found)
}

/// Parses a stored proof. A damaged file, or a file of another version, proves nothing. Returns the capabilities that the
/// recorded evidence supports; the stored claims themselves are not trusted.
fn parse(bytes: &[u8]) -> Option<BackendCapabilities> {
    let BackendCapabilities { name, persistent_sandboxes, snapshots, available_profiles, platform_features, evidence, .. } =
        serde_json::from_slice(bytes).or_debug("parse the stored result of a probe", "folder of proofs")?;
    Some(BackendCapabilities {
        persistent_sandboxes,
        snapshots,
        available_profiles,
        platform_features,
        ..BackendCapabilities::from_evidence(&name, evidence)
    })
}

const SUFFIX: &str = ".json";

fn prefix(backend: &str) -> String {
    format!("proven-{backend}-")
}

fn file(backend: &str, key: &str) -> String {
    prefix(backend) + key + SUFFIX
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
