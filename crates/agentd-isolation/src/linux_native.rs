//! `linux-native`: a view of the host's own file tree, for root and for ordinary users.
//!
//! Namespaces hide the host's processes, network and IPC objects. A private mount view hides the paths that are not granted, and
//! Landlock refuses access to the ungranted paths that the view still shows. Seccomp refuses system calls that ordinary programs
//! do not make, and a cgroup enforces the limits. The payload has no capability and is never uid 0 of the host.

use crate::{
    egress, fallback,
    grants::{self, invalid},
    names,
    shared_kernel::{BackendKind, SharedKernelBackend},
};
use agentd_core::{Access, BackendTraits, IsolationError, Root, SandboxSpec, Startup, Writable};
use agentd_kernel::{
    cgroup::CgroupPlan,
    landlock::{LandlockPlan, Rule},
    mount::{GrantPlan, SCRATCH, ViewPlan},
    namespace::{Ids, NamespacePlan},
    privileges::Capabilities,
    seccomp::SeccompPlan,
};
use agentd_supervisor::{
    plan::{SandboxPlan, Tree},
    protocol,
};
use std::{
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

/// System directories that every sandbox may read and execute, if they exist.
pub const SYSTEM_DIRECTORIES: [&str; 11] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix/store", "/gnu/store"];

/// Directories below `/` that the view recreates.
const RECREATED: [&str; 3] = ["/proc", "/dev", "/tmp"];

/// Directories that stay visible although their parents are masked: the parts of `/sys` that runtimes read to size their thread
/// pools, and program stores. The sockets of the stores' daemons, in the same parents, stay hidden.
const SHOWN: [&str; 4] = ["/sys/devices/system/cpu", "/sys/devices/system/node", "/nix/store", "/gnu/store"];

/// The home directory if the spec names none.
const DEFAULT_HOME: &str = "/home/agent";

/// The `linux-native` backend: shows the host's own file tree, restricted by namespaces, Landlock, seccomp and cgroups. It works
/// for root and for ordinary users.
pub type LinuxNativeBackend = SharedKernelBackend<LinuxNative>;

/// The [`BackendKind`] of [`LinuxNativeBackend`].
pub struct LinuxNative;

impl LinuxNativeBackend {
    /// Creates the backend. The probe targets are created below `work_root`.
    ///
    /// # Errors
    /// Never fails on Linux: the probe reports what this host lacks.
    pub fn new(work_root: &Path) -> Result<Self, IsolationError> {
        Ok(Self::configured(work_root, ()))
    }
}

impl BackendKind for LinuxNative {
    const NAME: &'static str = "linux-native";
    const TRAITS: BackendTraits = BackendTraits {
        copy_on_write: true,
        host_tools: true,
        egress: true,
        degradable: true,
        startup: Startup::Milliseconds,
        ..BackendTraits::UNKNOWN
    };

    type Config = ();

    fn plan((): &(), spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        plan(spec)
    }
}

fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
    if spec.root != Root::Host {
        let reason = "linux-native shows the host's file tree — use the container backend for an image".to_owned();
        return Err(IsolationError::Invalid { what: "root file system".to_owned(), reason });
    }
    if spec.writable != Writable::Memory {
        let reason = "linux-native has no private root whose changes could be kept — use the container backend".to_owned();
        return Err(IsolationError::Invalid { what: "storage of changes".to_owned(), reason });
    }
    let mut grants = grants::resolve(&spec.grants, protocol::MAX_FDS)?;
    let home = spec.home.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_HOME));
    if !home.is_absolute() || home.components().any(|c| c == Component::ParentDir) {
        return Err(invalid("home", &home, "not possible — use an absolute path without '..'"));
    }
    fallback::check(&spec.limits)?;
    let masks = masks()?;
    // If `/home` is a link, for example to `/var/home`, the home is created at the target and is reachable by both paths.
    let named = home;
    let home = behind_link(&named);
    if !masks.iter().any(|mask| home.starts_with(mask)) {
        return Err(invalid(
            "home",
            &named,
            "the path must lie outside of the system directories, for example in /home or /root",
        ));
    }
    for grant in grants.iter_mut().filter(|grant| grant.access == Access::CopyOnWrite) {
        if let Ok(relative) = grant.target.strip_prefix(&named) {
            grant.target = home.join(relative);
        }
    }
    if let Some(moved) = grants.iter().find(|grant| grant.target != grant.path && !is_copy_below(grant, &home)) {
        return Err(invalid(
            "grant",
            &moved.path,
            "linux-native cannot show a grant at another path — drop the target, or use the container backend",
        ));
    }
    let seccomp = SeccompPlan { profile: spec.profile, network: spec.network.mode(), set_ids: false };
    let mut cgroup = CgroupPlan::from_limits(&spec.limits, SeccompPlan::SUPERVISOR_THREADS);
    let process_rlimit = fallback::processes(&mut cgroup);
    let rlimit_notes = fallback::cpu_time(&mut cgroup).into_iter().collect();
    let mut rules = rules(&grants, &home);
    if !cgroup.is_empty() {
        // The view shows only the sandbox's own cgroup there.
        rules.push(rule("/sys/fs/cgroup", Access::ReadOnly, true));
    }
    let names = names::in_a_view(&named, spec.network.mode(), &masks);
    Ok(SandboxPlan {
        namespaces: NamespacePlan { enabled: true, network: spec.network.mode(), ids: Ids::Dedicated },
        gateway_ports: egress::ports(&spec.network)?,
        tree: Tree::View(ViewPlan {
            masks,
            shown: shown().to_vec(),
            home,
            names,
            trust: None,
            links: spec.links.clone(),
            grants,
            scratch_bytes: spec.limits.memory.map_or(fallback::SCRATCH_BYTES, |b| b.0),
        }),
        landlock: Some(LandlockPlan { rules, listable: true, network: spec.network.mode() }),
        capabilities: Capabilities::NONE,
        seccomp: Some(seccomp),
        cgroup,
        process_rlimit,
        rlimit_notes,
        allow_degraded: spec.allow_degraded,
    })
}

/// Returns `place` with its top-level directory resolved, if that is a symbolic link such as `/home` to `/var/home`.
fn behind_link(place: &Path) -> PathBuf {
    let mut parts = place.components();
    let top: PathBuf = parts.by_ref().take(2).collect();
    match (top.read_link(), top.canonicalize()) {
        (Ok(_), Ok(real)) => real.join(parts.as_path()),
        _ => place.to_path_buf(),
    }
}

/// Lists the entries of `/` that are neither system directories nor recreated by the view. Skips symbolic links, whose targets
/// are masked themselves.
fn masks() -> Result<Vec<PathBuf>, IsolationError> {
    let failed = |source| IsolationError::Io { context: "list /".to_owned(), source };
    let mut masks = Vec::new();
    for entry in std::fs::read_dir("/").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let visible = SYSTEM_DIRECTORIES.iter().chain(&RECREATED).any(|kept| path == Path::new(kept));
        if !visible && !entry.file_type().map_err(failed)?.is_symlink() {
            masks.push(path);
        }
    }
    masks.sort();
    Ok(masks)
}

/// Returns the directories of [`SHOWN`] that exist, resolved. They are looked up once.
fn shown() -> &'static [PathBuf] {
    static FOUND: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| {
        SHOWN.iter().filter_map(|path| Path::new(path).canonicalize().ok()).filter(|path| path.is_dir()).collect()
    })
}

/// Returns the rules that every sandbox has: those for the existing system directories and the private directories. They are
/// computed once.
fn system_rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| {
        // On most systems /bin, /lib and /sbin are links into /usr, which has a separate rule.
        let linked = |path: &str| Path::new(path).read_link().is_ok_and(|target| Path::new("/").join(target).starts_with("/usr"));
        let found = SYSTEM_DIRECTORIES.iter().chain(&SHOWN[..2]).filter(|path| Path::new(path).exists() && !linked(path));
        let mut rules: Vec<Rule> = found.map(|path| rule(path, Access::ReadOnly, true)).collect();
        rules.push(rule("/proc", Access::ReadOnly, false));
        rules.extend(SCRATCH.iter().filter(|p| !p.starts_with("/dev")).map(|p| rule(p, Access::ReadWrite, false)));
        // All of the private /dev: harmless nodes, shared memory and a private devpts.
        rules.push(rule("/dev", Access::ReadWrite, false));
        rules
    })
}

/// Returns true if a grant is copy-on-write inside the private home directory, where an overlay can be mounted at any path.
fn is_copy_below(grant: &GrantPlan, home: &Path) -> bool {
    grant.access == Access::CopyOnWrite && grant.target.starts_with(home) && grant.target != home
}

fn rule(path: impl Into<PathBuf>, access: Access, optional: bool) -> Rule {
    Rule { path: path.into(), access, optional, object: None }
}

fn rules(grants: &[GrantPlan], home: &Path) -> Vec<Rule> {
    let granted = grants.iter().map(|grant| match grant.access {
        // The granted object is the lower layer. The rule is for the overlay, and optional because the overlay may fail to mount.
        Access::CopyOnWrite => rule(&grant.target, grant.access, true),
        access => Rule { object: Some(grant.object.clone()), ..rule(&grant.path, access, false) },
    });
    system_rules().iter().cloned().chain([rule(home, Access::ReadWrite, false)]).chain(granted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Grant;
    use proptest::prelude::*;

    fn grant(path: &Path) -> Grant {
        Grant::new(path, Access::ReadOnly)
    }

    fn planned(grants: Vec<Grant>) -> Result<SandboxPlan, IsolationError> {
        plan(&SandboxSpec { grants, ..SandboxSpec::default() })
    }

    #[test]
    fn private_and_invalid_paths_are_refused() {
        for path in ["relative", "/", "/proc", "/proc/1", "/sys", "/dev", "/dev/null", "/no/such/path"] {
            assert!(planned(vec![grant(Path::new(path))]).is_err(), "{path}");
        }
        let protect = |path: &str| Grant { protect: vec![path.into()], ..grant(Path::new("/usr")) };
        for path in ["/etc", "..", "a/../b"] {
            assert!(planned(vec![protect(path)]).is_err(), "{path}");
        }
        for home in ["relative", "/usr", "/home/../etc", "/tmp"] {
            assert!(plan(&SandboxSpec { home: Some(home.into()), ..SandboxSpec::default() }).is_err(), "{home}");
        }
        assert!(planned(vec![grant(Path::new("/usr")); protocol::MAX_FDS + 1]).is_err());
    }

    #[test]
    fn landlock_rules_without_view_allow_private_paths_only_by_grant() {
        let workspace = tempfile::tempdir().unwrap();
        let workspace = workspace.path().canonicalize().unwrap();
        let mut spec = SandboxSpec { grants: vec![grant(&workspace)], ..SandboxSpec::default() };
        spec.limits.memory = Some(agentd_core::Bytes(1 << 30));
        let plan = plan(&spec).unwrap();
        let Tree::View(view) = &plan.tree else { panic!("no view: {:?}", plan.tree) };
        let rules = plan.landlock.unwrap();
        let paths = |rules: &LandlockPlan| rules.rules.iter().map(|rule| rule.path.clone()).collect::<Vec<_>>();
        assert!(paths(&rules).contains(&PathBuf::from("/sys/fs/cgroup")));
        let degraded = paths(&rules.without_view(&view.private()));
        for private in ["/sys/fs/cgroup", "/tmp", "/dev", DEFAULT_HOME] {
            assert!(!degraded.contains(&PathBuf::from(private)), "{private}");
        }
        assert!(degraded.contains(&workspace));
        let granted =
            Rule { object: rules.rules.iter().find_map(|rule| rule.object.clone()), ..rule("/tmp", Access::ReadOnly, false) };
        let rules = LandlockPlan { rules: vec![granted], ..rules };
        assert!(paths(&rules.without_view(&view.private())).contains(&PathBuf::from("/tmp")));
    }

    proptest! {
        #[test]
        fn resolved_grants_have_real_paths_and_parents_before_children(
            links in prop::collection::vec(
                ("[abc](/[abc]){0,2}", prop_oneof![Just(".."), Just("/"), Just("a"), Just("b/c")]),
                0..8,
            ),
            wanted in prop::collection::vec("[abc](/[abc]){0,2}", 1..5),
        ) {
            let root = tempfile::tempdir().unwrap();
            let root = root.path().canonicalize().unwrap();
            for (path, target) in links {
                let path = root.join(path);
                let parent = path.parent().unwrap();
                // Create nothing through a link, and nothing where an entry exists.
                if parent.parent().is_some_and(|above| above.canonicalize().is_ok_and(|real| real == above)) {
                    std::fs::create_dir(parent).ok();
                }
                if parent.canonicalize().is_ok_and(|real| real == parent) {
                    std::os::unix::fs::symlink(target, path).ok();
                }
            }
            let grants: Vec<Grant> = wanted.iter().map(|path| grant(&root.join(path))).filter(|g| g.path.exists()).collect();
            let count = grants.len();
            if let Ok(plan) = planned(grants) {
                let paths: Vec<&PathBuf> = plan.tree.grants().iter().map(|g| &g.path).collect();
                prop_assert_eq!(paths.len(), count);
                prop_assert!(paths.iter().all(|path| path.canonicalize().unwrap() == **path));
                for (index, path) in paths.iter().enumerate() {
                    prop_assert!(!paths[..index].iter().any(|before| before.starts_with(path) && before != path));
                }
                prop_assert!(plan.landlock.unwrap().rules.iter().all(|rule| rule.path != Path::new("/")));
            }
        }
    }
}
