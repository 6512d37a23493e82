//! The isolation backends of agentd: their names, how they are created and chosen, and the handlers of this program's helper
//! processes.
//!
//! A program that embeds this library calls [`take_role`] first in its `main`, because the process that creates sandboxes is this
//! same program, executed again. The program then takes its backend from [`require_backend`], which fails on a host that cannot
//! prove the required isolation. [`detect_best_backend`] falls back to no isolation instead. A pool provides sandboxes for
//! commands that must not wait:
//!
//! ```no_run
#![doc = include_str!("../../examples/pool.rs")]
//! ```

mod built_in;

#[cfg(not(all(feature = "firecracker", feature = "gondolin", feature = "images", feature = "policy")))]
pub(crate) use built_in::left_out;
pub use built_in::{FIRECRACKER, GONDOLIN};

pub use agentd_core::*;
#[cfg(feature = "firecracker")]
pub use agentd_firecracker::{DiskRate, FirecrackerBackend, FirecrackerConfig};
#[cfg(feature = "gondolin")]
pub use agentd_gondolin::{GondolinBackend, GondolinConfig};
#[cfg(any(feature = "firecracker", feature = "gondolin"))]
pub use agentd_guest as guest;
pub use agentd_isolation::{
    Base, Choice, ContainerBackend, ContainerConfig, HeadTail, HostDirectBackend, LinuxNativeBackend, PoolLimits, RootPlan,
    SYSTEM_DIRECTORIES, SandboxPlan, SandboxPool, SharedKernelBackend, Tree, Upper, data_directory, grants, has_subordinate_ids,
    layered, protect, rank,
};

use agentd_isolation::{Registry, select};
use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

/// Returns the registry of this program's backends.
fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry::new(built_in::all()))
}

/// Runs a helper process, if this process was started as one, and then does not return. Otherwise returns immediately. An
/// embedding program calls this function first in `main`, before it starts a thread. Without that call, it cannot create
/// sandboxes ([`IsolationError::NoRoleHandler`]).
pub fn take_role() {
    agentd_isolation::take_role(built_in::HANDLERS);
}

/// Returns the canonical names of all backends, in the order of registration.
pub fn available_backends() -> Vec<String> {
    registry().available()
}

/// Returns the canonical form of a name or alias; `None` if the name is unknown.
pub fn canonical_backend_name(name: &str) -> Option<String> {
    registry().canonical_name(name)
}

/// Returns true if `name` is the canonical name of one of agentd's own backends, and not of one that the program registered.
pub(crate) fn is_own_backend(name: &str) -> bool {
    registry().is_own(name)
}

/// Creates the backend called `name`, which keeps its files below `work_root`.
///
/// # Errors
/// [`IsolationError::UnknownBackend`] for an unknown name; [`IsolationError::Initialize`] with the backend's own error.
pub fn create_backend(name: &str, work_root: &Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> {
    registry().create(name, work_root)
}

/// Registers a backend: either all of its names become known, or none. Names are trimmed and lower-cased, and `_` equals `-`.
/// Empty aliases are skipped; an alias that equals the name or another alias counts once.
///
/// ```no_run
/// use agentd::isolation::{HostDirectBackend, register_backend_factory};
/// use std::sync::Arc;
///
/// # fn main() -> Result<(), agentd::isolation::IsolationError> {
/// register_backend_factory("mine", &["my"], |root| Ok(Arc::new(HostDirectBackend::new(root))))
/// # }
/// ```
///
/// # Errors
/// [`IsolationError::Registration`] if the canonical name is empty, or if a name is already registered.
pub fn register_backend_factory<F>(canonical: &str, aliases: &[&str], factory: F) -> Result<(), IsolationError>
where
    F: Fn(&Path) -> Result<Arc<dyn IsolationBackend>, IsolationError> + Send + Sync + 'static,
{
    registry().register(canonical, aliases, factory)
}

/// Returns the names of the registered backends whose traits meet `wanted`, in the order of registration. Leaves out backends
/// that cannot be created.
///
/// The backends with a boundary and the host's kernel, for [`choose_backend`]:
///
/// ```no_run
/// use agentd::isolation::backends_with;
///
/// let names = backends_with(&std::env::temp_dir(), |traits| traits.boundary && !traits.own_kernel);
/// ```
pub fn backends_with(work_root: &Path, wanted: impl Fn(&BackendTraits) -> bool) -> Vec<String> {
    select::backends_with(registry(), work_root, wanted)
}

/// Chooses the backend with the highest score among those in `names` that prove all of `claims`. Of backends with the same score,
/// chooses the one whose sandboxes start faster and, if they start equally fast, the first. Never chooses a backend without a
/// boundary.
///
/// # Errors
/// [`IsolationError::Requirement`] if no backend proves one of `claims`, [`IsolationError::Combination`] if no single backend
/// proves all of them.
pub async fn choose_backend<N: AsRef<str>>(work_root: &Path, names: &[N], claims: &[Claim]) -> Result<Choice, IsolationError> {
    select::choose_backend(registry(), work_root, names, claims).await
}

/// Probes the backend called `name`, even if an earlier proof is stored, and stores the result.
///
/// # Errors
/// The error of creating or probing the backend; in that case, nothing is stored.
pub async fn probe_again(work_root: &Path, name: &str) -> Result<BackendCapabilities, IsolationError> {
    select::probe_again(registry(), work_root, name).await
}

/// Discards the stored proof of the backend called `name`, so that the next choice probes that backend again.
pub fn forget_proof(work_root: &Path, name: &str) {
    select::forget_proof(registry(), work_root, name);
}

/// Returns the registered backend with the highest score. Of backends with the same score, returns the one that was registered
/// first, however long its sandboxes take to start.
///
/// If no backend proves any isolation, falls back to `host-direct`, which **isolates nothing**, and logs a warning. Use
/// [`require_backend`] for code that must not run unisolated.
pub async fn detect_best_backend(work_root: &Path) -> Arc<dyn IsolationBackend> {
    select::detect_best_backend(registry(), work_root).await
}

/// Returns the registered backend that [`choose_backend`] chooses among all registered backends, and its proven capabilities.
///
/// # Errors
/// [`IsolationError::Requirement`] if no backend proves one of `claims`, [`IsolationError::Combination`] if no single backend
/// proves all of them.
pub async fn require_backend(
    work_root: &Path,
    claims: &[Claim],
) -> Result<(Arc<dyn IsolationBackend>, BackendCapabilities), IsolationError> {
    select::require_backend(registry(), work_root, claims).await
}
