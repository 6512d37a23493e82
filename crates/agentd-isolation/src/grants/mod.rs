//! Resolves grants: which objects of the host a sandbox is shown, and at which paths.
//!
//! A path is resolved once ([`find`]), to an object that is afterwards identified by its [`ObjectId`]. The [`Guard`] checks the
//! path of that object, and only that object is mounted or copied. [`pin`] resolves a spec from which several sandboxes are
//! created, or whose sandbox is started again later.
//!
//! - `find`: resolves a path to an object, and decides which symbolic links are followed.
//! - `guard`, `secrets`: paths that are never granted.
//! - `places`: the places on the way to a file that agentd trusts.
//! - `overlap`: grants that show a part of another grant.

mod find;
mod guard;
mod overlap;
mod places;
mod secrets;

pub use find::{Found, Links, find};
pub use guard::Guard;
pub use places::{places, shows};

use crate::protect;
use agentd_core::{Access, Control, ControlError, Grant, GuardRule, IsolationError, ObjectId, SandboxSpec};
use agentd_kernel::{mount::GrantPlan, object};
use std::path::{Component, Path};

/// Directories that are separate for each sandbox.
const RESERVED: [&str; 4] = ["/", "/proc", "/sys", "/dev"];

/// Resolves the grants of a spec, so that every sandbox created from it is granted the objects that the paths lead to now.
///
/// # Errors
/// [`IsolationError::Invalid`] for a grant that is refused or leads nowhere; [`IsolationError::GrantChanged`] for a grant that
/// was resolved before and leads to another object now.
pub fn pin(spec: &mut SandboxSpec) -> Result<(), IsolationError> {
    let Some(guard) = guard_for(&spec.grants) else { return Ok(()) };
    for grant in &mut spec.grants {
        let found = look_up(grant, &guard)?;
        grant.path = found.path;
        grant.object = Some(found.object);
    }
    Ok(())
}

/// Returns the guard, if there are grants to check.
fn guard_for(grants: &[Grant]) -> Option<Guard> {
    (!grants.is_empty()).then(Guard::host)
}

/// Resolves at most `max` grants into plans, whose application follows no link. Parents come before children, so that a grant
/// inside another is mounted over it.
///
/// # Errors
/// [`IsolationError::Invalid`] for more than `max` grants, or for a grant that cannot be resolved;
/// [`IsolationError::GrantChanged`] for a grant that leads to another object now.
pub fn resolve(grants: &[Grant], max: usize) -> Result<Vec<GrantPlan>, IsolationError> {
    if grants.len() > max {
        let reason = format!("{} grants exceed the maximum of {max} — grant a common parent directory", grants.len());
        return Err(IsolationError::Invalid { what: "grants".to_owned(), reason });
    }
    let Some(guard) = guard_for(grants) else { return Ok(Vec::new()) };
    let mut resolved = grants.iter().map(|grant| resolve_one(grant, &guard)).collect::<Result<Vec<_>, _>>()?;
    resolved.sort_by_key(|grant| grant.target.components().count());
    protect::complete(&mut resolved);
    overlap::protect(&mut resolved)?;
    Ok(resolved)
}

pub(crate) fn invalid(what: &str, path: &Path, reason: &str) -> IsolationError {
    IsolationError::Invalid { what: format!("{what} {}", path.display()), reason: reason.to_owned() }
}

/// Refuses a target path that every sandbox reserves for itself or cannot mount on.
pub(crate) fn check_target(what: &str, place: &Path) -> Result<(), IsolationError> {
    let upward = place.components().any(|c| c == Component::ParentDir);
    if !place.is_absolute() || upward || RESERVED.iter().any(|reserved| place == Path::new(reserved)) {
        return Err(invalid(what, place, "not possible — use an absolute path without '..', other than /, /proc, /sys and /dev"));
    }
    Ok(())
}

/// Refuses copy-on-write grants, for backends that have no overlay of the host's files.
///
/// # Errors
/// [`IsolationError::Invalid`] if a grant is copy-on-write.
pub fn refuse_copy_on_write(grants: &[Grant], backend: &str) -> Result<(), IsolationError> {
    match grants.iter().find(|grant| grant.access == Access::CopyOnWrite) {
        Some(grant) => {
            let reason = format!(
                "{backend} has no copy-on-write grants — use linux-native or container, or grant the directory read-only"
            );
            Err(invalid("grant", &grant.path, &reason))
        }
        None => Ok(()),
    }
}

fn resolve_one(grant: &Grant, guard: &Guard) -> Result<GrantPlan, IsolationError> {
    let Found { path, object, owner, .. } = look_up(grant, guard)?;
    for protected in grant.protect.iter().chain(&grant.unprotected) {
        if protected.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(invalid("protected path", protected, "not possible — use a relative path without '..'"));
        }
    }
    let target = grant.target.clone().unwrap_or_else(|| path.clone());
    check_target("target", &target)?;
    if grant.access == Access::CopyOnWrite && !path.is_dir() {
        return Err(invalid("grant", &path, "only a directory can be granted copy-on-write — grant the parent directory"));
    }
    let (protect, unprotected) = (grant.protect.clone(), grant.unprotected.clone());
    Ok(GrantPlan { path, target, access: grant.access, protect, unprotected, owner, object })
}

/// Returns the object that a grant leads to, if it may be granted.
fn look_up(grant: &Grant, guard: &Guard) -> Result<Found, IsolationError> {
    let found = match &grant.object {
        None => find(&grant.path, guard, Links::Refuse)?,
        Some(granted) => again(grant, granted)?,
    };
    if found.path == Path::new("/") || RESERVED[1..].iter().any(|r| found.path.starts_with(r)) {
        let reason = "every sandbox has its own /, /proc, /sys and /dev — grant another directory";
        return Err(invalid("grant", &found.path, reason));
    }
    match guard.refusal(&found.path) {
        Some(reason) if grant.guard == GuardRule::Apply => Err(invalid("grant", &found.path, &reason)),
        _ => Ok(found),
    }
}

/// Finds the object of a grant that was resolved before.
fn again(grant: &Grant, granted: &ObjectId) -> Result<Found, IsolationError> {
    // The guard compares components, so it would not recognise a secret in another spelling of its path.
    if !grant.path.is_absolute() || grant.path.components().any(|part| part == Component::ParentDir) {
        let reason = "the path of a resolved grant is relative or contains '..' — leave out `Grant::object` to resolve the path";
        return Err(invalid("grant", &grant.path, reason));
    }
    let opened = object::reopen(&grant.path, granted)?;
    let stat = rustix::fs::fstat(&opened).map_err(|errno| {
        ControlError::new(Control::Grants, format!("stat {}", grant.path.display()), Some(errno.raw_os_error()))
    })?;
    Ok(Found { path: grant.path.clone(), object: granted.clone(), owner: (stat.st_uid, stat.st_gid), linked: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn resolved_grant_with_other_spelling_of_its_path_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("project/docs")).unwrap();
        std::fs::create_dir(root.join("secret")).unwrap();
        let pinned = |path: std::path::PathBuf, object: &str| {
            let object = object::id(object::open(&root.join(object)).unwrap().as_fd()).unwrap();
            pin(&mut SandboxSpec {
                grants: vec![Grant { object: Some(object), ..Grant::new(path, Access::ReadOnly) }],
                ..SandboxSpec::default()
            })
        };
        let refused = pinned(root.join("project/../secret"), "secret").unwrap_err().to_string();
        assert!(refused.contains("contains '..'"), "{refused}");
        let own = std::path::PathBuf::from("src");
        let object =
            object::id(rustix::fs::open(&own, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap().as_fd()).unwrap();
        let relative = Grant { object: Some(object), ..Grant::new(&own, Access::ReadOnly) };
        assert!(pin(&mut SandboxSpec { grants: vec![relative], ..SandboxSpec::default() }).is_err());
        pinned(root.join("project/docs"), "project/docs").unwrap();
    }
}
