//! Selects the backend of a command of the command line.

use super::{
    args::{NetworkArg, RequireArg, RunArgs},
    failure::Failure,
    named_backend::named_backend,
    temporary,
    terminal::Progress,
};
use crate::isolation::{
    ContainerBackend, LinuxNativeBackend, backends_with, canonical_backend_name, choose_backend, create_backend, forget_proof,
    is_own_backend,
};
use agentd_core::{BackendCapabilities, BackendTraits, Claim, Control, IsolationBackend, IsolationError};
use rustix::fs::{Access, access};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Claims that a backend must prove for a command of `agentd run`.
pub(crate) const REQUIRED: [Claim; 4] = [Claim::Filesystem, Claim::Process, Claim::Network, Claim::Syscalls];

/// Environment variable with the default for `--backend`.
const VARIABLE: &str = "AGENTD_BACKEND";

const AUTO: &str = "auto";

/// A selected backend.
pub(crate) struct Selected {
    /// The backend.
    pub backend: Arc<dyn IsolationBackend>,
    /// The proven claims; `None` if the backend was selected by name and not probed.
    pub proven: Option<BackendCapabilities>,
    probed_earlier: bool,
    work_root: PathBuf,
}

impl Selected {
    /// Returns true if `error` may mean that an earlier proof is outdated: the backend can no longer create sandboxes.
    pub(crate) fn is_outdated_by(&self, error: &IsolationError) -> bool {
        let of_the_boundary = match error {
            IsolationError::Unavailable { .. } => true,
            // Errors of limits, disks, grants, id maps and commands depend on the caller's request, not on the boundary.
            IsolationError::Control(error) => !matches!(
                error.control,
                Control::Cgroup | Control::Rlimits | Control::Volume | Control::Exec | Control::Grants | Control::Idmap
            ),
            other => other.is_loss(),
        };
        self.probed_earlier && of_the_boundary
    }

    /// Discards the stored proof, so that the next selection probes this backend again.
    pub(crate) fn forget(&self) {
        forget_proof(&self.work_root, self.backend.name());
    }
}

/// Returns true if the sandbox of a run uses the host's kernel and has namespaces.
pub(crate) fn is_on_hosts_kernel(args: &RunArgs) -> bool {
    named(args).map_or(!NeededTraits::of(args).own_kernel, |name| on_hosts_kernel(&name).is_some())
}

/// Returns the canonical form of a name that means one of agentd's own backends with namespaces on the host's kernel.
fn on_hosts_kernel(name: &str) -> Option<String> {
    let own = [LinuxNativeBackend::NAME, ContainerBackend::NAME];
    canonical_backend_name(name).filter(|name| own.contains(&name.as_str()))
}

/// Returns true if the sandbox of a run is expected to be one of `linux-native` whose isolation is not degraded.
pub(crate) fn expects_a_view(args: &RunArgs) -> bool {
    let expected = expected(args, &std::env::temp_dir());
    expected.is_some_and(|expected| expected.name() == LinuxNativeBackend::NAME) && !args.boundary.allow_degraded
}

/// Returns the backend on the host's kernel that a run is expected to have: the one that the caller names, or `linux-native`,
/// unless the run needs traits that this backend lacks.
pub(crate) fn expected(args: &RunArgs, work_root: &Path) -> Option<Arc<dyn IsolationBackend>> {
    match named(args) {
        Some(name) => create_backend(&on_hosts_kernel(&name)?, work_root).ok(),
        None => {
            let expected = create_backend(LinuxNativeBackend::NAME, work_root).ok()?;
            NeededTraits::of(args).are_met_by(&expected.traits()).then_some(expected)
        }
    }
}

/// Returns true if the environment names the default for `--backend`.
pub(crate) fn is_default_set() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|name| !name.is_empty() && name != AUTO)
}

/// Returns the backend that the caller names, by the option or the environment variable.
fn named(args: &RunArgs) -> Option<String> {
    let named = args.backend.clone().or_else(|| std::env::var(VARIABLE).ok());
    named.filter(|name| !name.is_empty() && name != AUTO)
}

/// Selects the backend of `agentd run`, with and without `--explain`.
///
/// # Errors
/// The message for the user, if no backend fits or the named backend cannot be created.
pub(crate) async fn of_run(args: &RunArgs, work_root: &Path) -> Result<Selected, Failure> {
    let needs = NeededTraits::of(args);
    let required = [&REQUIRED[..], if needs.own_kernel { &[Claim::Kernel] } else { &[] }].concat();
    let name = match &args.backend {
        Some(name) => name.clone(),
        None => setting(work_root)?,
    };
    if name != AUTO {
        let probed = |name: &String| needs.own_kernel || must_be_probed(work_root, name) && !args.boundary.allow_degraded;
        return match canonical_backend_name(&name).filter(probed) {
            Some(name) => choose(work_root, &[name], &required).await,
            None => by_name(work_root, &name),
        };
    }
    if args.boundary.allow_degraded {
        let degradable = backends_with(work_root, |traits| needs.are_met_by(traits) && traits.degradable);
        if let Some(name) = degradable.first() {
            // With `--allow-degraded`, nothing has to be proven.
            return by_name(work_root, name);
        }
    }
    choose(work_root, &backends_with(work_root, |traits| needs.are_met_by(traits)), &required).await
}

/// Returns true if a backend that an option names must prove its boundary. This applies to a backend that is not agentd's own,
/// because no test suite has attacked it, unless the backend claims no boundary.
fn must_be_probed(work_root: &Path, name: &str) -> bool {
    !is_own_backend(name) && backends_with(work_root, |traits| traits.boundary).iter().any(|with| with == name)
}

/// Returns true if `auto` may select a backend with these traits for a run that needs only a boundary.
pub(crate) fn is_automatic(traits: &BackendTraits) -> bool {
    NeededTraits::default().are_met_by(traits)
}

/// Traits that a run needs, apart from the claims that the backend must prove.
#[derive(Debug, Clone, Copy, Default)]
struct NeededTraits {
    own_kernel: bool,
    image: bool,
    volume: bool,
    egress: bool,
}

impl NeededTraits {
    fn of(args: &RunArgs) -> Self {
        Self {
            own_kernel: args.require.contains(&RequireArg::KernelIsolation),
            image: args.boundary.image.is_some(),
            volume: args.disk.is_some(),
            egress: args.boundary.net.iter().any(|net| !matches!(net, NetworkArg::Off | NetworkArg::Host)),
        }
    }

    /// Returns true if a backend with these traits meets the needs. A machine costs time and memory, so it is selected only if
    /// its own kernel is required. If that machine then lacks images, disks or granted hosts, an error reports that.
    fn are_met_by(self, traits: &BackendTraits) -> bool {
        let has = (traits.images || !self.image) && (traits.volumes || !self.volume) && (traits.egress || !self.egress);
        traits.boundary && traits.own_kernel == self.own_kernel && (has || self.own_kernel)
    }
}

/// Selects the backend of named sandboxes.
///
/// # Errors
/// The message for the user, if the backend does not prove the required claims.
pub(crate) async fn of_named_sandboxes() -> Result<Selected, Failure> {
    choose(&temporary::of_here()?, &[ContainerBackend::NAME], &REQUIRED).await
}

/// Returns the backend of named sandboxes for a client of a daemon in other namespaces. The daemon proves the boundary.
///
/// # Errors
/// If the backend cannot be created.
pub(crate) fn unproven_of_named_sandboxes() -> Result<Selected, Failure> {
    by_name(&temporary::of_here()?, ContainerBackend::NAME)
}

/// Proves the boundary of named sandboxes in the daemon, for clients that have not proven it. The probe's files lie outside the
/// directories `changeable`, which commands may change.
///
/// # Errors
/// The message for the client, if the backend does not prove the required claims.
pub(crate) async fn prove_for_others(changeable: Vec<PathBuf>) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("prove the boundary in the namespaces of the daemon: {error}");
    let work_root = temporary::outside(&changeable).map_err(|error| failed(&error))?;
    match choose_backend(&work_root, &[ContainerBackend::NAME], &REQUIRED).await {
        Ok(_) => Ok(()),
        Err(error) => Err(unusable(&work_root).map_or_else(|| failed(&error), |error| failed(&error))),
    }
}

async fn choose<N: AsRef<str>>(work_root: &Path, names: &[N], claims: &[Claim]) -> Result<Selected, Failure> {
    let names_text = names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
    let _progress = Progress::show(format!("probing {names_text} (once per boot)"));
    let choice = choose_backend(work_root, names, claims).await;
    let choice = choice.map_err(|error| unusable(work_root).unwrap_or_else(|| error.into()))?;
    Ok(Selected {
        backend: choice.backend,
        proven: Some(choice.proven),
        probed_earlier: choice.probed_earlier,
        work_root: work_root.to_path_buf(),
    })
}

/// Returns the error for a temporary directory in which no probe can create its files.
fn unusable(work_root: &Path) -> Option<Failure> {
    let error: std::io::Error = access(work_root.join("."), Access::WRITE_OK | Access::EXEC_OK).err()?.into();
    Some(format!("temporary directory: {}: {error} — create it, or set TMPDIR to another directory", work_root.display()).into())
}

fn by_name(work_root: &Path, name: &str) -> Result<Selected, Failure> {
    let backend = named_backend(name, work_root)?;
    Ok(Selected { backend, proven: None, probed_earlier: false, work_root: work_root.to_path_buf() })
}

/// Returns the backend name in the environment variable, or `auto`. A backend without a boundary cannot be a default; it must be
/// named for each run.
fn setting(work_root: &Path) -> Result<String, Failure> {
    let setting = std::env::var(VARIABLE).unwrap_or_default();
    if setting.is_empty() || setting == AUTO {
        return Ok(AUTO.to_owned());
    }
    let backend = named_backend(&setting, work_root)?;
    if !backend.traits().boundary {
        let name = backend.name();
        let reason =
            format!("{name} isolates nothing and cannot be the default — use --backend {name} for each run that needs it");
        return Err(IsolationError::Invalid { what: format!("{VARIABLE}={setting}"), reason }.into());
    }
    Ok(setting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::ControlError;

    #[test]
    fn auto_considers_backends_that_meet_needs_of_run() {
        let host = &["linux-native", "container"][..];
        let machines: &[&str] = &[
            #[cfg(feature = "gondolin")]
            "gondolin",
            #[cfg(feature = "firecracker")]
            "firecracker",
        ];
        let needs = |own_kernel, image, volume| NeededTraits { own_kernel, image, volume, ..NeededTraits::default() };
        for (needs, wanted) in [
            (needs(false, false, false), host),
            (needs(false, true, false), &["container"]),
            (needs(false, false, true), &["container"]),
            (needs(true, false, false), machines),
            (needs(true, true, true), machines),
            (NeededTraits { egress: true, ..NeededTraits::default() }, host),
        ] {
            assert_eq!(backends_with(&std::env::temp_dir(), |traits| needs.are_met_by(traits)), wanted, "{needs:?}");
        }
        assert!(!is_automatic(&BackendTraits { boundary: false, ..BackendTraits::default() }));
    }

    #[test]
    fn proof_is_outdated_by_failing_boundary_but_not_by_failing_request() {
        let mut selected = by_name(&std::env::temp_dir(), LinuxNativeBackend::NAME).unwrap();
        let gone = IsolationError::Unavailable { backend: "gondolin".to_owned(), reason: "not installed".to_owned() };
        let failed = |control| IsolationError::from(ControlError::new(control, "call", None));
        assert!(!selected.is_outdated_by(&gone), "no stored proof was used");
        selected.probed_earlier = true;
        for error in
            [gone, failed(Control::Namespaces), failed(Control::Mounts), failed(Control::Seccomp), failed(Control::Landlock)]
        {
            assert!(selected.is_outdated_by(&error), "{error}");
        }
        let invalid = IsolationError::Invalid { what: "grant".to_owned(), reason: "missing".to_owned() };
        let asked = [Control::Cgroup, Control::Rlimits, Control::Volume, Control::Grants, Control::Idmap].map(failed);
        for error in asked.into_iter().chain([invalid]) {
            assert!(!selected.is_outdated_by(&error), "{error}");
        }
    }
}
