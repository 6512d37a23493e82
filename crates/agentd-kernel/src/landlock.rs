//! Landlock (`landlock(7)`): files outside the rules cannot be opened, created, renamed or removed. Newer kernels also restrict
//! TCP, abstract sockets and signals.

use crate::{ErrnoContext, object, syscall};
use ::landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};
use agentd_core::{Access, Control, ControlError, ControlStatus, NetworkMode, ObjectId};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The first ABI whose file rights leave no known gap (truncation came with 3, `ioctl` on devices with 5).
const COMPLETE_ABI: i32 = 5;

/// A file hierarchy that the sandbox may access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The root of the hierarchy.
    #[serde(with = "crate::path_bytes::one")]
    pub path: PathBuf,
    /// The access that is allowed below `path`.
    pub access: Access,
    /// Whether the rule is skipped if `path` does not exist or is not accessible.
    pub optional: bool,
    /// The granted object, if the rule belongs to a grant. `path` must lead to this object without a symbolic link.
    pub object: Option<ObjectId>,
}

/// The rules of a sandbox. All access rights that the kernel knows are handled, so access without a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockPlan {
    /// The hierarchies that the sandbox may access.
    pub rules: Vec<Rule>,
    /// Whether every directory may be listed. True for `linux-native`, whose view of the host's tree shows only permitted files.
    /// No rule can express this, because a rule for `/` always includes everything below `/`.
    pub listable: bool,
    /// Landlock restricts TCP with [`NetworkMode::Host`] only: in the other modes, the sandbox has its own network namespace.
    pub network: NetworkMode,
}

impl LandlockPlan {
    /// Returns the rules for a process whose view of the host's tree could not be built. The rules of the `private` paths are
    /// dropped, because without a view these paths lead to the host's files. Of `/dev`, only the harmless nodes are allowed.
    #[must_use]
    pub fn without_view(&self, private: &[&Path]) -> Self {
        let is_read_only_grant = |rule: &Rule| rule.object.is_some() && rule.access == Access::ReadOnly;
        let shared = |rule: &&Rule| is_read_only_grant(rule) || !private.contains(&rule.path.as_path());
        let nodes = crate::mount::NODES.iter().map(|node| Rule {
            path: Path::new("/dev").join(node),
            access: Access::ReadWrite,
            optional: true,
            object: None,
        });
        // Without an id-mapped mount, the user of this process may be unable to access a grant.
        let reachable = |rule: &Rule| Rule { optional: true, ..rule.clone() };
        Self { rules: self.rules.iter().filter(shared).map(reachable).chain(nodes).collect(), listable: false, ..self.clone() }
    }
}

/// Returns the Landlock ABI version of this kernel, or 0 if it has no Landlock.
pub fn abi() -> i32 {
    syscall::landlock::landlock_abi()
}

/// A ruleset in the kernel that does not restrict a process yet.
pub struct PreparedRuleset {
    ruleset: RulesetCreated,
    version: i32,
    rules: usize,
}

/// Creates the ruleset of a plan. The paths are resolved now, in the mount namespace of this process.
pub fn prepare(plan: &LandlockPlan) -> Result<PreparedRuleset, ControlError> {
    let version = abi();
    if version == 0 {
        return Err(ControlError::new(Control::Landlock, "landlock_create_ruleset", Some(libc::ENOSYS))
            .remedy("boot a kernel ≥ 5.13 with landlock in the lsm= list"));
    }
    let abi = ABI::from(version);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(|e| failed("handle file rights", e))?;
    let scopes = Scope::from_all(abi);
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes).map_err(|e| failed("scope signals and abstract sockets", e))?;
    }
    let net = AccessNet::from_all(abi) & AccessNet::BindTcp;
    if !net.is_empty() && plan.network == NetworkMode::Host {
        // Access to the host's network does not include binding a well-known port of the host. A socket that listens without
        // `bind(2)` gets a free port, which Landlock does not control.
        ruleset = ruleset.handle_access(net).map_err(|e| failed("handle TCP rights", e))?;
    }
    let mut created = ruleset.create().map_err(|e| failed("create ruleset", e))?;
    if plan.listable {
        let root = PathFd::new("/").map_err(|e| failed("open /", e))?;
        created = created
            .add_rule(PathBeneath::new(root, AccessFs::ReadDir))
            .map_err(|e| failed("add rule for / (directories can be listed)", e))?;
    }
    let mut rules = usize::from(plan.listable);
    for rule in &plan.rules {
        let Some(path) = open(rule)? else { continue };
        created = created
            .add_rule(PathBeneath::new(&path, rights(rule.access, is_directory(&path), abi)))
            .map_err(|e| failed(&format!("add rule for {} ({:?})", rule.path.display(), rule.access), e))?;
        rules += 1;
    }
    Ok(PreparedRuleset { ruleset: created, version, rules })
}

impl PreparedRuleset {
    /// Restricts this process and its future children. Requires no_new_privs.
    pub fn enforce(self) -> Result<(ControlStatus, String), ControlError> {
        self.ruleset.restrict_self().map_err(|e| failed("restrict this process", e))?;
        let version = self.version;
        let status = if version >= COMPLETE_ABI {
            ControlStatus::Enforced
        } else {
            ControlStatus::Partial(format!("ABI {version} of this kernel lacks access rights that ABI {COMPLETE_ABI} has"))
        };
        Ok((status, format!("ABI {version}, {} rules", self.rules)))
    }
}

fn failed(call: &str, error: impl Error + Send + Sync + 'static) -> ControlError {
    ControlError::caused_by(Control::Landlock, call, error)
}

/// Opens the root of a rule. Returns `None` if an optional root is missing or not accessible. Never opens an object other than
/// the granted one.
fn open(rule: &Rule) -> Result<Option<OwnedFd>, ControlError> {
    let call = || format!("open {}", rule.path.display());
    let opened = match &rule.object {
        Some(object) => object::reopen(&rule.path, object),
        None => rustix::fs::open(&rule.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .during(Control::Landlock, call)
            .map_err(|error| match error.errno {
                Some(libc::EACCES) => error.remedy("let this user enter the directories above the path, or drop the grant"),
                _ => error.remedy("create the path, or drop the grant"),
            }),
    };
    match opened {
        Err(error) if rule.optional && matches!(error.errno, Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)) => Ok(None),
        opened => opened.map(Some),
    }
}

fn is_directory(path: &OwnedFd) -> bool {
    rustix::fs::fstat(path).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Returns the access rights of a rule. Rights that apply to directories only are left out for a file.
fn rights(access: Access, directory: bool, abi: ABI) -> BitFlags<AccessFs> {
    let granted = match access {
        Access::ReadOnly => AccessFs::from_read(abi),
        // A sandbox may never create device nodes.
        Access::ReadWrite | Access::CopyOnWrite => AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock),
    };
    if directory { granted } else { granted & AccessFs::from_file(abi) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// A process can be restricted by at most 16 rulesets; the next call fails with `E2BIG` (`landlock_restrict_self(2)`).
    #[test]
    fn refused_call_keeps_errno_and_source() {
        let everything = Rule { path: "/".into(), access: Access::ReadWrite, optional: false, object: None };
        let plan = LandlockPlan { rules: vec![everything], listable: false, network: NetworkMode::Off };
        let restrict = move || (0..17).try_for_each(|_| prepare(&plan)?.enforce().map(drop));
        // Rulesets restrict a single thread.
        let error = std::thread::spawn(restrict).join().unwrap().unwrap_err();
        assert_eq!(error.errno, Some(libc::E2BIG), "{error}");
        assert!(error.source().is_some_and(|source| source.is::<::landlock::RulesetError>()), "{error:?}");
        let cause = std::io::Error::from_raw_os_error(libc::E2BIG);
        assert_eq!(error.to_string(), format!("landlock: restrict this process: {cause}"));
    }

    #[test]
    fn optional_rule_for_replaced_grant_fails_as_grants_control() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap().join("granted");
        std::fs::create_dir(&path).unwrap();
        let object = object::id(object::open(&path).unwrap().as_fd()).unwrap();
        let mut rule = Rule { path: path.clone(), access: Access::ReadOnly, optional: true, object: Some(object) };
        std::fs::rename(&path, place.path().join("moved")).unwrap();
        assert!(open(&rule).unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        for optional in [true, false] {
            rule.optional = optional;
            assert_eq!(open(&rule).unwrap_err().control, Control::Grants);
        }
    }
}
