//! Landlock (`landlock(7)`): nothing outside the rules can be opened, created, renamed, or removed; on newer kernels also TCP,
//! abstract sockets and signals are fenced.

use crate::syscall;
use ::landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};
use agentd_core::{Access, Layer, LayerError, LayerStatus, Network};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The first ABI whose file rights leave no known gap (truncation came with 3, `ioctl` on devices with 5).
const COMPLETE_ABI: i32 = 5;

/// One allowed hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its root. One that does not exist is passed over when `optional`.
    #[serde(with = "crate::path_bytes::one")]
    pub path: PathBuf,
    /// What may be done below it.
    pub access: Access,
    /// Whether it may be missing.
    pub optional: bool,
}

/// The rules of a sandbox. All rights that the kernel knows are handled, so that what no rule grants is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockPlan {
    /// Allowed hierarchies.
    pub rules: Vec<Rule>,
    /// With [`Network::Off`], TCP is not restricted by Landlock: the network namespace has loopback only.
    pub network: Network,
}

impl LandlockPlan {
    /// The same rules for a process that has no view of its own after all: what would have been private is not granted, and of `/dev`
    /// only the harmless nodes are.
    #[must_use]
    pub fn without_view(&self, private: &[&Path]) -> Self {
        let shared = |rule: &&Rule| rule.access == Access::ReadOnly || !private.contains(&rule.path.as_path());
        let nodes = crate::mount::NODES.iter().map(|node| Rule {
            path: Path::new("/dev").join(node),
            access: Access::ReadWrite,
            optional: true,
        });
        // Without its id-mapped mount, a grant may be one that this process's user cannot reach.
        let reachable = |rule: &Rule| Rule { optional: true, ..rule.clone() };
        Self { rules: self.rules.iter().filter(shared).map(reachable).chain(nodes).collect(), ..self.clone() }
    }
}

/// The ABI of this kernel, 0 for none.
pub fn abi() -> i32 {
    syscall::landlock_abi()
}

/// A ruleset in the kernel, not yet enforced on anyone.
pub struct Prepared {
    ruleset: RulesetCreated,
    version: i32,
    rules: usize,
}

/// Makes the ruleset of a plan. The paths are those of this process's mount namespace, at this moment.
pub fn prepare(plan: &LandlockPlan) -> Result<Prepared, LayerError> {
    let version = abi();
    if version == 0 {
        return Err(LayerError::new(Layer::Landlock, "landlock_create_ruleset", Some(libc::ENOSYS))
            .remedy("boot a kernel ≥ 5.13 with landlock in the lsm= list"));
    }
    let abi = ABI::from(version);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(|e| failed("handle file rights", &e))?;
    let scopes = Scope::from_all(abi);
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes).map_err(|e| failed("scope signals and abstract sockets", &e))?;
    }
    let net = AccessNet::from_all(abi) & AccessNet::BindTcp;
    if !net.is_empty() && plan.network == Network::Host {
        // Listening on the host's addresses is not part of "may use the network".
        ruleset = ruleset.handle_access(net).map_err(|e| failed("handle TCP rights", &e))?;
    }
    let mut created = ruleset.create().map_err(|e| failed("create ruleset", &e))?;
    let mut rules = 0;
    for rule in &plan.rules {
        let path = match PathFd::new(&rule.path) {
            Ok(path) => path,
            Err(_) if rule.optional => continue,
            Err(error) => {
                return Err(failed(&format!("open {}", rule.path.display()), &error).remedy("create the path, or drop the grant"));
            }
        };
        created = created
            .add_rule(PathBeneath::new(&path, rights(rule.access, is_directory(&path), abi)))
            .map_err(|e| failed(&format!("add rule for {} ({:?})", rule.path.display(), rule.access), &e))?;
        rules += 1;
    }
    Ok(Prepared { ruleset: created, version, rules })
}

impl Prepared {
    /// Restricts this process and its future children. no_new_privs must be set.
    pub fn enforce(self) -> Result<(LayerStatus, String), LayerError> {
        self.ruleset.restrict_self().map_err(|e| failed("restrict self", &e))?;
        let version = self.version;
        let status = if version >= COMPLETE_ABI {
            LayerStatus::Enforced
        } else {
            LayerStatus::Partial(format!("ABI {version} of this kernel does not know every right; {COMPLETE_ABI} does"))
        };
        Ok((status, format!("ABI {version}, {} rules", self.rules)))
    }
}

fn failed(call: &str, error: &dyn std::fmt::Display) -> LayerError {
    LayerError::new(Layer::Landlock, format!("{call}: {error}"), None)
}

fn is_directory(path: &PathFd) -> bool {
    rustix::fs::fstat(path).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// The rights of a rule, as far as they exist for what its path is.
fn rights(access: Access, directory: bool, abi: ABI) -> BitFlags<AccessFs> {
    let granted = match access {
        Access::ReadOnly => AccessFs::from_read(abi),
        // Device nodes are never made inside.
        Access::ReadWrite => AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock),
    };
    if directory { granted } else { granted & AccessFs::from_file(abi) }
}
