//! The choice of a backend, by what was proven.

use crate::{HostDirectBackend, available_backends, create_backend};
use agentd_core::{BackendCapabilities, Bit, IsolationBackend, IsolationError};
use std::{path::Path, sync::Arc};

type Candidate = (Arc<dyn IsolationBackend>, BackendCapabilities);

/// Builds and probes every registered backend; those that fail are skipped, with the reason logged.
async fn candidates(work_root: &Path) -> Vec<Candidate> {
    let mut found = Vec::new();
    for name in available_backends() {
        match create_backend(&name, work_root) {
            Ok(backend) => match backend.probe().await {
                Ok(proven) => found.push((backend, proven)),
                Err(error) => tracing::info!(backend = name, %error, "not usable: the probe failed"),
            },
            Err(error) => tracing::info!(backend = name, %error, "not usable: it could not be made"),
        }
    }
    found
}

/// The candidate with the highest score; the first of equals.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().reduce(|best, next| if next.1.score() > best.1.score() { next } else { best })
}

/// The backend that proves most on this machine. With nothing proven it is `host-direct`, with a warning; callers that must not
/// run unisolated use [`require_backend`].
pub async fn detect_best_backend(work_root: &Path) -> Arc<dyn IsolationBackend> {
    match best(candidates(work_root).await) {
        Some((backend, proven)) if proven.score() > 0 => backend,
        _ => {
            tracing::warn!("no backend proves any isolation on this machine; commands would run unisolated");
            HostDirectBackend::new(work_root)
        }
    }
}

/// The backend that proves most among those that prove all of `bits`.
///
/// # Errors
/// [`IsolationError::Requirement`] when there is none.
pub async fn require_backend(
    work_root: &Path,
    bits: &[Bit],
) -> Result<(Arc<dyn IsolationBackend>, BackendCapabilities), IsolationError> {
    let all = candidates(work_root).await;
    let mut missing: Vec<Bit> = bits.to_vec();
    missing.retain(|bit| !all.iter().any(|(_, proven)| proven.has(*bit)));
    let fit = all.into_iter().filter(|(_, proven)| bits.iter().all(|bit| proven.has(*bit))).collect();
    best(fit).ok_or_else(|| {
        let missing = if missing.is_empty() { bits.to_vec() } else { missing };
        IsolationError::Requirement { missing: missing.iter().map(Bit::to_string).collect::<Vec<_>>().join(", ") }
    })
}
