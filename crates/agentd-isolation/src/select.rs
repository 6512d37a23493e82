//! Selects a backend by its proven capabilities.

use crate::{
    HostDirectBackend,
    blocking::planning,
    proven::Proofs,
    rank::{Rank, TieBreak},
    registry::Registry,
};
use agentd_core::{BackendCapabilities, BackendTraits, Claim, IsolationBackend, IsolationError, escape};
use std::{path::Path, sync::Arc};

/// A backend that was chosen.
#[non_exhaustive]
pub struct Choice {
    /// The chosen backend.
    pub backend: Arc<dyn IsolationBackend>,
    /// The capabilities that the backend proved.
    pub proven: BackendCapabilities,
    /// True if the proof comes from an earlier process. If the backend can no longer create sandboxes, call [`forget_proof`] to
    /// have it probed again.
    pub probed_earlier: bool,
}

/// Returns the names of the registered backends whose traits satisfy `wanted`, in the order of registration. Skips backends that
/// cannot be created.
pub fn backends_with(registry: &Registry, work_root: &Path, wanted: impl Fn(&BackendTraits) -> bool) -> Vec<String> {
    let meets = |name: &String| created(registry, work_root, name).is_some_and(|backend| wanted(&backend.traits()));
    registry.available().into_iter().filter(meets).collect()
}

/// Chooses the backend with the highest score among those in `names` that prove all of `claims`. Of backends with the same score,
/// chooses the one whose sandboxes start faster and, if they start equally fast, the first. A backend without a boundary is never
/// chosen.
///
/// Proofs of earlier processes are used as long as nothing that they depend on has changed. A backend that cannot win is not
/// probed, except that backends registered by an embedder are always probed.
///
/// # Errors
/// [`IsolationError::Requirement`] if no backend proves one of `claims`, [`IsolationError::Combination`] if no single backend
/// proves all of them.
pub async fn choose_backend<N: AsRef<str>>(
    registry: &Registry,
    work_root: &Path,
    names: &[N],
    claims: &[Claim],
) -> Result<Choice, IsolationError> {
    choose(registry, work_root, names, claims, TieBreak::Faster, &proofs(registry, work_root).await?).await
}

async fn choose<N: AsRef<str>>(
    registry: &Registry,
    work_root: &Path,
    names: &[N],
    claims: &[Claim],
    tie: TieBreak,
    proofs: &Arc<Proofs>,
) -> Result<Choice, IsolationError> {
    let max: u32 = Claim::ALL.into_iter().map(Claim::score).sum();
    let mut missing = claims.to_vec();
    let mut best: Option<(Rank, Choice)> = None;
    for Candidate { name, backend, own } in candidates(registry, work_root, names, tie) {
        let startup = backend.traits().startup;
        let can_win = best.as_ref().is_none_or(|(best, _)| Rank { score: max, startup }.beats(*best, tie));
        if own && !can_win {
            continue;
        }
        let choice = match proof(backend, &name, own.then_some(proofs)).await {
            Ok(choice) => choice,
            Err(error) => {
                not_usable(&name, &error);
                continue;
            }
        };
        missing.retain(|claim| !choice.proven.has(*claim));
        let fit = claims.iter().all(|claim| choice.proven.has(*claim));
        let rank = Rank { score: choice.proven.score(), startup };
        if fit && best.as_ref().is_none_or(|(best, _)| rank.beats(*best, tie)) {
            best = Some((rank, choice));
        }
    }
    best.map(|(_, choice)| choice).ok_or_else(|| {
        let names = |claims: &[Claim]| claims.iter().map(Claim::to_string).collect::<Vec<_>>().join(", ");
        match &missing[..] {
            [] if claims.is_empty() => IsolationError::Requirement { missing: "any isolation".to_owned() },
            [] => IsolationError::Combination { claims: names(claims) },
            missing => IsolationError::Requirement { missing: names(missing) },
        }
    })
}

/// A backend that can be chosen.
struct Candidate {
    /// The canonical name in the registry.
    name: String,
    backend: Arc<dyn IsolationBackend>,
    /// True if the backend is one of agentd's own.
    own: bool,
}

/// Creates the backends with a boundary among `names`, in the order in which they are to be probed.
fn candidates<N: AsRef<str>>(registry: &Registry, work_root: &Path, names: &[N], tie: TieBreak) -> Vec<Candidate> {
    // An alias and its canonical name are the same backend.
    let canonical = names.iter().map(|name| registry.canonical_name(name.as_ref()).unwrap_or_else(|| name.as_ref().to_owned()));
    let candidate = |name: String| {
        let backend = created(registry, work_root, &name)?;
        let own = registry.is_own(&name);
        backend.traits().boundary.then_some(Candidate { name, backend, own })
    };
    let mut candidates: Vec<Candidate> = canonical.filter_map(candidate).collect();
    if tie == TieBreak::Faster {
        // Probing a virtual machine takes seconds. The faster backends go first, so that a slower one that can at best tie is
        // skipped.
        candidates.sort_by_key(|candidate| candidate.backend.traits().startup);
    }
    candidates
}

fn created(registry: &Registry, work_root: &Path, name: &str) -> Option<Arc<dyn IsolationBackend>> {
    registry.create(name, work_root).map_err(|error| not_usable(name, &error)).ok()
}

fn not_usable(name: &str, error: &IsolationError) {
    tracing::info!(backend = name, error = %escape::text(&error.to_string()), "backend is not usable");
}

/// Returns the stored proof of a backend if it is valid; otherwise probes the backend and stores the result.
async fn proof(backend: Arc<dyn IsolationBackend>, name: &str, proofs: Option<&Arc<Proofs>>) -> Result<Choice, IsolationError> {
    let Some(proofs) = proofs else {
        let proven = backend.probe().await?;
        return Ok(Choice { backend, proven, probed_earlier: false });
    };
    let (kept, name) = (proofs.clone(), name.to_owned());
    if let Some(proven) = planning(move || Ok(kept.get(&name))).await? {
        return Ok(Choice { backend, proven, probed_earlier: true });
    }
    let proven = probe_and_keep(&*backend, proofs).await?;
    Ok(Choice { backend, proven, probed_earlier: false })
}

async fn probe_and_keep(backend: &dyn IsolationBackend, proofs: &Arc<Proofs>) -> Result<BackendCapabilities, IsolationError> {
    let proven = backend.probe().await?;
    let proofs = proofs.clone();
    planning(move || {
        proofs.keep(&proven);
        Ok(proven)
    })
    .await
}

/// Opens the stored proofs that apply to probes below `work_root`.
async fn proofs(registry: &Registry, work_root: &Path) -> Result<Arc<Proofs>, IsolationError> {
    let (kept, work_root) = (registry.provable(), work_root.to_owned());
    planning(move || Ok(Arc::new(Proofs::open(kept, &work_root)))).await
}

/// Probes the backend called `name` and replaces its stored proof, valid or not.
///
/// # Errors
/// The error of creating the backend, which leaves the old proof unchanged, or of probing it, which discards the old proof.
pub async fn probe_again(registry: &Registry, work_root: &Path, name: &str) -> Result<BackendCapabilities, IsolationError> {
    let backend = registry.create(name, work_root)?;
    let proofs = proofs(registry, work_root).await?;
    let (old, canonical) = (proofs.clone(), backend.name().to_owned());
    planning(move || {
        old.forget(&canonical);
        Ok(())
    })
    .await?;
    probe_and_keep(&*backend, &proofs).await
}

/// Discards the stored proof of the backend called `name`, so that the next choice probes it again.
pub fn forget_proof(registry: &Registry, work_root: &Path, name: &str) {
    Proofs::open(registry.provable(), work_root).forget(name);
}

/// Returns the registered backend with the highest score. Of backends with the same score, returns the one that was registered
/// first, however long its sandboxes take to start.
///
/// If no backend proves any isolation, falls back to `host-direct`, which **isolates nothing**, and logs a warning. Code that
/// must not run unisolated uses [`require_backend`].
pub async fn detect_best_backend(registry: &Registry, work_root: &Path) -> Arc<dyn IsolationBackend> {
    let chosen = async {
        let proofs = proofs(registry, work_root).await?;
        choose(registry, work_root, &registry.available(), &[], TieBreak::First, &proofs).await
    };
    match chosen.await {
        Ok(choice) if choice.proven.score() > 0 => choice.backend,
        _ => {
            tracing::warn!("no backend proves any isolation on this host: commands run without isolation");
            Arc::new(HostDirectBackend::new(work_root))
        }
    }
}

/// Returns a registered backend that proves all of `claims`, selected as by [`choose_backend`], and its proven capabilities.
///
/// # Errors
/// As [`choose_backend`].
pub async fn require_backend(
    registry: &Registry,
    work_root: &Path,
    claims: &[Claim],
) -> Result<(Arc<dyn IsolationBackend>, BackendCapabilities), IsolationError> {
    let Choice { backend, proven, .. } = choose_backend(registry, work_root, &registry.available(), claims).await?;
    Ok((backend, proven))
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
