//! `container`: a separate root file system, in which the payload is root. The payload may change this root, which is deleted
//! afterwards.
//!
//! In addition to the controls of [`crate::LinuxNativeBackend`] (namespaces, seccomp, Landlock, cgroups), the host's tree is
//! removed with `pivot_root(2)`. The root is an image's layers under a writable layer, or a read-only view of the host's
//! programs.
//!
//! If the caller is root, each sandbox has 65536 host ids that no other live sandbox has. If the caller is an ordinary user, root
//! in the sandbox is that user, and the other ids in the sandbox map to the caller's subordinate ids, if any.

use crate::{
    egress, fallback, grants, names,
    shared_kernel::{BackendKind, SharedKernelBackend},
};
use agentd_core::{Access, BackendTraits, Bytes, IsolationError, NetworkMode, Root, SandboxSpec, Startup, Writable};
use agentd_kernel::{
    cgroup::CgroupPlan,
    landlock::{LandlockPlan, Rule},
    mount::{
        etc::HostEtc,
        names::NamesPlan,
        root::{Base, RootPlan, Upper},
    },
    namespace::{Ids, NamespacePlan},
    privileges::Capabilities,
    seccomp::SeccompPlan,
};
use agentd_supervisor::{
    plan::{SandboxPlan, Tree},
    protocol,
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The host's program directories. Those that exist are shown.
const SYSTEM: [&str; 10] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store"];

/// The `container` backend. See the [module documentation](self).
pub type ContainerBackend = SharedKernelBackend<Container>;

/// The [`BackendKind`] of [`ContainerBackend`].
pub struct Container;

/// The settings that an embedder can choose for [`ContainerBackend`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Size limit of the in-memory file system of a sandbox that has no memory limit, in bytes.
    pub scratch: Bytes,
}

impl Default for ContainerConfig {
    fn default() -> Self {
        Self { scratch: Bytes(fallback::SCRATCH_BYTES) }
    }
}

impl ContainerBackend {
    /// Creates the backend. The probe targets and the layers of sandboxes are created below `work_root`.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a configuration with which no sandbox could be created.
    pub fn new(work_root: &Path, config: Option<ContainerConfig>) -> Result<Self, IsolationError> {
        let config = config.unwrap_or_default();
        if config.scratch.0 == 0 {
            let reason = "`scratch` is 0 — set the size limit of the in-memory file system in bytes".to_owned();
            return Err(IsolationError::Invalid { what: "container configuration".to_owned(), reason });
        }
        Ok(Self::configured(work_root, config))
    }
}

impl BackendKind for Container {
    const NAME: &'static str = "container";
    const TRAITS: BackendTraits = BackendTraits {
        own_root: true,
        uid_zero: true,
        moves_grants: true,
        copy_on_write: true,
        host_tools: true,
        images: true,
        volumes: true,
        egress: true,
        startup: Startup::Milliseconds,
        ..BackendTraits::UNKNOWN
    };
    const LAYERS: bool = true;

    type Config = ContainerConfig;

    fn plan(config: &ContainerConfig, spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        plan(config, spec)
    }
}

/// Plans a sandbox of `spec`. Does not check the grants against agentd's own folders.
///
/// # Errors
/// [`IsolationError::Invalid`] for a part of the spec that this backend does not support, or for a refused grant, limit or path.
pub fn plan(config: &ContainerConfig, spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
    let layers = match &spec.root {
        Root::Host => Vec::new(),
        Root::Layers(layers) if layers.is_empty() => {
            return Err(IsolationError::Invalid {
                what: "root file system".to_owned(),
                reason: "the list of layers is empty — name at least one layer".to_owned(),
            });
        }
        Root::Layers(layers) => layers.clone(),
    };
    let of_the_host = layers.is_empty();
    let (lower, upper) = match &spec.writable {
        Writable::Memory => (&[][..], None),
        Writable::Volume(bytes) => (&[][..], Some(Upper::Volume(bytes.0))),
        Writable::TemporaryLayers => {
            let reason = "the layers of this sandbox do not exist before it is created — call create_sandbox()".to_owned();
            return Err(IsolationError::Invalid { what: "storage of changes".to_owned(), reason });
        }
        Writable::KeptLayers(disk) => (&disk.lower[..], Some(Upper::Directory(disk.upper.clone()))),
    };
    let layers = [layers, lower.to_vec()].concat();
    let (system, links) = if of_the_host { host_programs() } else { (Vec::new(), Vec::new()) };
    // The links were created with the first layer. The lower layers contain all later changes to them, including their removal.
    let has_committed = !lower.is_empty();
    let links = if has_committed { Vec::new() } else { links };
    let etc = match &upper {
        _ if has_committed || !of_the_host => None,
        Some(Upper::Directory(_)) => Some(HostEtc::Copy),
        Some(Upper::Volume(_)) | None => Some(HostEtc::Overlay { hide: !rustix::process::geteuid().is_root() }),
    };
    let base = Base::Stack { layers, upper };
    rooted(
        spec,
        config.scratch,
        RootParts { base, ids: Ids::Dedicated, system, links, etc, names: (!has_committed).then_some(names::in_own_root) },
    )
}

/// Plans a sandbox inside a virtual machine that belongs to it alone, with `directory` of the machine as its root.
///
/// # Errors
/// [`IsolationError::Invalid`] for a refused grant, limit or path.
pub fn plan_over(directory: &Path, spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
    let base = Base::Directory(directory.to_path_buf());
    let (system, links) = (Vec::new(), Vec::new());
    rooted(
        spec,
        ContainerConfig::default().scratch,
        RootParts { base, ids: Ids::Identity, system, links, etc: None, names: Some(names::in_own_machine) },
    )
}

/// The parts of a sandbox's root.
struct RootParts {
    base: Base,
    ids: Ids,
    system: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    etc: Option<HostEtc>,
    names: Option<fn(&Path, NetworkMode) -> NamesPlan>,
}

fn rooted(spec: &SandboxSpec, scratch: Bytes, parts: RootParts) -> Result<SandboxPlan, IsolationError> {
    let RootParts { base, ids, system, links, etc, names } = parts;
    fallback::check(&spec.limits)?;
    let trees = base.trees();
    let room = protocol::MAX_FDS.checked_sub(trees).ok_or_else(|| IsolationError::Invalid {
        what: "root file system".to_owned(),
        reason: format!("{trees} layers exceed the maximum of {} — squash the image", protocol::MAX_FDS),
    })?;
    let links = [links, spec.links.clone()].concat();
    let grants = grants::resolve(&spec.grants, room)?;
    let home = spec.home.clone().unwrap_or_else(|| PathBuf::from("/root"));
    grants::check_target("home", &home)?;
    let names = names.map(|names| names(&home, spec.network.mode()));
    let scratch_bytes = spec.limits.memory.unwrap_or(scratch).0;
    // In the sandbox's own root, set-id bits affect no host user. In a writable granted directory, files belong to the caller, on
    // a host mount that honours the bits: a process that executes such a file gets the caller's rights. The seccomp filter cannot
    // distinguish the two.
    let set_ids = spec.grants.iter().all(|grant| grant.access != Access::ReadWrite);
    let seccomp = SeccompPlan { profile: spec.profile, network: spec.network.mode(), set_ids };
    let mut cgroup = CgroupPlan::from_limits(&spec.limits, SeccompPlan::SUPERVISOR_THREADS);
    cgroup.for_runtimes = cgroup.memory.is_some() || cgroup.cpu_quota.is_some();
    let process_rlimit = fallback::processes(&mut cgroup);
    let rlimit_notes = fallback::cpu_time(&mut cgroup).into_iter().collect();
    // RLIMIT_NPROC counts the processes of each user separately (`setrlimit(2)`), so the sandbox is limited to one user.
    let kept = if process_rlimit.is_some() { Capabilities::OWN_ROOT.as_one_user() } else { Capabilities::OWN_ROOT };
    // Everything below `/` belongs to the sandbox, except for mounts that are read-only where they must not be changed.
    let rules = vec![Rule { path: PathBuf::from("/"), access: Access::ReadWrite, optional: false, object: None }];
    Ok(SandboxPlan {
        namespaces: NamespacePlan { enabled: true, network: spec.network.mode(), ids },
        gateway_ports: egress::ports(&spec.network)?,
        tree: Tree::Root(RootPlan {
            base,
            system,
            etc,
            names,
            trust: None,
            links,
            home,
            grants,
            devices: Vec::new(),
            scratch_bytes,
        }),
        capabilities: kept,
        landlock: Some(LandlockPlan { rules, listable: false, network: spec.network.mode() }),
        seccomp: Some(seccomp),
        cgroup,
        process_rlimit,
        rlimit_notes,
        allow_degraded: spec.allow_degraded,
    })
}

/// Returns the host's programs that exist: the directories and files to show, and the symbolic links to recreate.
fn host_programs() -> (Vec<PathBuf>, Vec<(PathBuf, PathBuf)>) {
    let (mut system, mut links) = (Vec::new(), Vec::new());
    for path in SYSTEM.map(Path::new) {
        match path.read_link() {
            Ok(target) => links.push((path.to_path_buf(), target)),
            // The path exists and is not a symbolic link (`readlink(2)`, `EINVAL`).
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => system.push(path.to_path_buf()),
            Err(_) => {}
        }
    }
    (system, links)
}
