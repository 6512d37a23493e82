//! `linux-native`: the host's own file tree, fenced, for root and for ordinary users.
//!
//! Namespaces take away the host's processes, network and ipc; a private mount view takes away the names of what is not granted;
//! Landlock refuses what the view still names; seccomp refuses system calls that no ordinary program makes; a cgroup holds the
//! limits. The payload has no capability and is never uid 0 of the host.

use crate::{
    fallback,
    grants::{self, invalid},
    linked::{Kind, LinkedBackend},
};
use agentd_core::{Access, IsolationError, Root, SandboxSpec, Writable};
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

/// Directories of the system that every sandbox may read and execute, where they exist.
pub const SYSTEM_DIRECTORIES: [&str; 11] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix/store", "/gnu/store"];

/// Directories below `/` that the view makes anew.
const KEPT: [&str; 3] = ["/proc", "/dev", "/tmp"];

/// What is shown of directories that are covered otherwise: the parts of `/sys` that runtimes read to size their thread pools, and
/// stores of programs, beside which sockets of their daemons lie.
const SHOWN: [&str; 4] = ["/sys/devices/system/cpu", "/sys/devices/system/node", "/nix/store", "/gnu/store"];

/// Where the home directory appears when the spec names none.
const DEFAULT_HOME: &str = "/home/agent";

/// Size limit of all that is private when the sandbox has no memory limit.
pub(crate) const SCRATCH_BYTES: u64 = 2 << 30;

/// See the head of this module.
pub type LinuxNativeBackend = LinkedBackend<LinuxNative>;

/// The kind of [`LinuxNativeBackend`].
pub struct LinuxNative;

impl Kind for LinuxNative {
    const NAME: &'static str = "linux-native";
    const BOUNDARY: Option<Capabilities> = Some(Capabilities::NONE);

    fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
        plan(spec)
    }
}

fn plan(spec: &SandboxSpec) -> Result<SandboxPlan, IsolationError> {
    if spec.root != Root::Host {
        let reason = "linux-native shows the host's own tree: use the container backend for an image".to_owned();
        return Err(IsolationError::Invalid { what: "root".to_owned(), reason });
    }
    if spec.writable != Writable::Memory {
        let reason = "linux-native has no root of its own whose changes could be kept: use the container backend".to_owned();
        return Err(IsolationError::Invalid { what: "writable".to_owned(), reason });
    }
    let grants = grants::resolve(&spec.grants, protocol::MAX_FDS)?;
    if let Some(moved) = grants.iter().find(|grant| grant.target != grant.path) {
        return Err(invalid("grant", &moved.path, "linux-native shows what it grants at the same place"));
    }
    let home = spec.home.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_HOME));
    if !home.is_absolute() || home.components().any(|c| c == Component::ParentDir) {
        return Err(invalid("home", &home, "it must be an absolute path without '..'"));
    }
    fallback::check(&spec.limits)?;
    let masks = masks()?;
    if !masks.iter().any(|mask| home.starts_with(mask)) {
        return Err(invalid("home", &home, "it must lie in a directory that is not the system's, such as /home or /root"));
    }
    let rules = rules(&grants, &home);
    let mut cgroup = CgroupPlan::from_limits(&spec.limits);
    let process_rlimit = fallback::processes(&mut cgroup);
    let rlimit_notes = fallback::cpu_time(&mut cgroup).into_iter().collect();
    Ok(SandboxPlan {
        namespaces: NamespacePlan { enabled: true, network: spec.network, ids: Ids::Apart },
        tree: Tree::View(ViewPlan {
            masks,
            shown: shown().to_vec(),
            home,
            grants,
            scratch_bytes: spec.limits.memory.map_or(SCRATCH_BYTES, |b| b.0),
        }),
        landlock: Some(LandlockPlan { rules, network: spec.network }),
        capabilities: Capabilities::NONE,
        seccomp: Some(SeccompPlan { profile: spec.profile, network: spec.network, set_ids: false }),
        cgroup,
        process_rlimit,
        rlimit_notes,
        allow_degraded: spec.allow_degraded,
    })
}

/// The directories below `/` that are neither the system's nor made anew.
fn masks() -> Result<Vec<PathBuf>, IsolationError> {
    let failed = |source| IsolationError::Io { context: "list /".to_owned(), source };
    let mut masks = Vec::new();
    for entry in std::fs::read_dir("/").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let visible = SYSTEM_DIRECTORIES.iter().chain(&KEPT).any(|kept| path == Path::new(kept));
        if !visible && entry.file_type().map_err(failed)?.is_dir() {
            masks.push(path);
        }
    }
    masks.sort();
    Ok(masks)
}

/// What there is of [`SHOWN`], looked up once.
fn shown() -> &'static [PathBuf] {
    static THERE: OnceLock<Vec<PathBuf>> = OnceLock::new();
    THERE.get_or_init(|| {
        SHOWN.iter().filter_map(|path| Path::new(path).canonicalize().ok()).filter(|path| path.is_dir()).collect()
    })
}

/// The rules that every sandbox has: what of the system is there, looked up once.
fn system_rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| {
        // On most systems /bin, /lib and /sbin are links into /usr, which has a rule already.
        let linked = |path: &str| Path::new(path).read_link().is_ok_and(|target| Path::new("/").join(target).starts_with("/usr"));
        let found = SYSTEM_DIRECTORIES.iter().chain(&SHOWN[..2]).filter(|path| Path::new(path).exists() && !linked(path));
        let mut rules: Vec<Rule> = found.map(|path| rule(path, Access::ReadOnly, true)).collect();
        rules.push(rule("/proc", Access::ReadOnly, false));
        rules.extend(SCRATCH.iter().filter(|p| !p.starts_with("/dev")).map(|p| rule(p, Access::ReadWrite, false)));
        // All of the private /dev: harmless nodes, shared memory and an own devpts.
        rules.push(rule("/dev", Access::ReadWrite, false));
        rules
    })
}

fn rule(path: impl Into<PathBuf>, access: Access, optional: bool) -> Rule {
    Rule { path: path.into(), access, optional }
}

fn rules(grants: &[GrantPlan], home: &Path) -> Vec<Rule> {
    let granted = grants.iter().map(|g| rule(&g.path, g.access, false));
    system_rules().iter().cloned().chain([rule(home, Access::ReadWrite, false)]).chain(granted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Grant;
    use proptest::prelude::*;

    fn grant(path: &Path) -> Grant {
        Grant { path: path.to_path_buf(), target: None, access: Access::ReadOnly, protect: Vec::new() }
    }

    fn planned(grants: Vec<Grant>) -> Result<SandboxPlan, IsolationError> {
        plan(&SandboxSpec { grants, ..SandboxSpec::default() })
    }

    #[test]
    fn what_the_sandbox_has_of_its_own_is_not_granted() {
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

    proptest! {
        #[test]
        fn grants_are_resolved_once_and_ordered_from_the_top(
            links in prop::collection::vec(("[abc](/[abc]){0,2}", prop_oneof![Just(".."), Just("/"), Just("a"), Just("b/c")]), 0..8),
            wanted in prop::collection::vec("[abc](/[abc]){0,2}", 1..5),
        ) {
            let root = tempfile::tempdir().unwrap();
            let root = root.path().canonicalize().unwrap();
            for (path, target) in links {
                let path = root.join(path);
                let parent = path.parent().unwrap();
                // Nothing is made through a link, nor where something is.
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
