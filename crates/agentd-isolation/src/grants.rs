//! Grants, resolved: what of the host is shown, and where.

use agentd_core::{Grant, IsolationError};
use agentd_kernel::mount::GrantPlan;
use std::{
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

/// What every sandbox has of its own.
const RESERVED: [&str; 4] = ["/", "/proc", "/sys", "/dev"];

/// Follows the symbolic links of each grant once; what is carried out afterwards follows none. Parents come before children, so that
/// a grant inside another is attached over it. There may be `most`.
pub(crate) fn resolve(grants: &[Grant], most: usize) -> Result<Vec<GrantPlan>, IsolationError> {
    if grants.len() > most {
        let reason = format!("{} are more than {most}; grant a directory above them", grants.len());
        return Err(IsolationError::Invalid { what: "grants".to_owned(), reason });
    }
    let mut resolved = grants.iter().map(resolve_one).collect::<Result<Vec<_>, _>>()?;
    resolved.sort_by_key(|grant| grant.target.components().count());
    Ok(resolved)
}

pub(crate) fn invalid(what: &str, path: &Path, reason: &str) -> IsolationError {
    IsolationError::Invalid { what: format!("{what} {}", path.display()), reason: reason.to_owned() }
}

/// Refuses a place inside where a root of its own cannot show anything.
pub(crate) fn check_place(what: &str, place: &Path) -> Result<(), IsolationError> {
    let upward = place.components().any(|c| c == Component::ParentDir);
    if !place.is_absolute() || upward || RESERVED.iter().any(|reserved| place == Path::new(reserved)) {
        return Err(invalid(what, place, "it must be an absolute path without '..', and not /, /proc, /sys or /dev"));
    }
    Ok(())
}

fn resolve_one(grant: &Grant) -> Result<GrantPlan, IsolationError> {
    if !grant.path.is_absolute() {
        return Err(invalid("grant", &grant.path, "it must be an absolute path"));
    }
    let path =
        grant.path.canonicalize().map_err(|e| invalid("grant", &grant.path, &format!("{e}; create it, or drop the grant")))?;
    let meta = path.metadata().map_err(|e| invalid("grant", &path, &e.to_string()))?;
    for protected in &grant.protect {
        if protected.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(invalid("protected path", protected, "it must be relative and without '..'"));
        }
    }
    if path == Path::new("/") || RESERVED[1..].iter().any(|r| path.starts_with(r)) {
        return Err(invalid(
            "grant",
            &path,
            "the sandbox has its own; grant a directory below / that is not /proc, /sys or /dev",
        ));
    }
    let target = grant.target.clone().unwrap_or_else(|| path.clone());
    check_place("target", &target)?;
    Ok(GrantPlan { path, target, access: grant.access, protect: grant.protect.clone(), owner: (meta.uid(), meta.gid()) })
}
