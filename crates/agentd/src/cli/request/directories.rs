//! The working directory and the home directory of a command.

use super::super::grants;
use agentd_core::{BackendTraits, Grant, IsolationError};
use std::path::{Path, PathBuf};

/// Returns the current directory, with links resolved.
pub(super) fn here() -> Result<PathBuf, IsolationError> {
    std::env::current_dir().map_err(|error| IsolationError::Invalid {
        what: "current directory".to_owned(),
        reason: format!("{error} — change to an existing directory, or use --workspace DIR"),
    })
}

/// Returns the home directory of the command.
pub(super) fn home(traits: &BackendTraits, guard: &grants::Guard) -> PathBuf {
    let own = guard.home();
    let home = match traits {
        BackendTraits { uid_zero: true, .. } => Path::new("/root"),
        BackendTraits { boundary: false, .. } => own.unwrap_or(Path::new("/")),
        // Tools remember absolute paths, so keep the caller's home path, if the sandbox can cover it and it belongs to an
        // ordinary user. A caller who is root is not root in this sandbox.
        _ => own
            .filter(|home| ["/home", "/var/home"].iter().any(|above| home.starts_with(above)))
            .unwrap_or(Path::new("/home/agent")),
    };
    home.to_path_buf()
}

/// Returns the path at which a path of the host is shown; `None` if no grant shows it.
pub(super) fn inside(path: &Path, granted: &[Grant]) -> Option<PathBuf> {
    let shows = granted.iter().filter_map(|grant| Some((grant, path.strip_prefix(&grant.path).ok()?)));
    // The innermost grant is mounted over the others.
    let (grant, rest) = shows.min_by_key(|(_, rest)| rest.components().count())?;
    let place = grant.target.as_ref().unwrap_or(&grant.path);
    // Joining an empty path would append a slash.
    Some(if rest.as_os_str().is_empty() { place.clone() } else { place.join(rest) })
}

/// Returns true if part of a directory is shown at its own path, so that relative names of granted files stay valid inside.
pub(super) fn above(path: &Path, named: &[Grant]) -> bool {
    named.iter().any(|grant| grant.path.starts_with(path) && grant.target.as_ref().is_none_or(|target| *target == grant.path))
}

/// Resolves `--cwd`: a directory of the host, translated to its path in the sandbox, or a directory that exists only in the
/// sandbox.
pub(super) fn named_directory(cwd: &Path, granted: &[Grant]) -> Result<PathBuf, IsolationError> {
    if granted.iter().any(|grant| grant.target.as_ref().is_some_and(|target| cwd.starts_with(target))) {
        return Ok(cwd.to_path_buf());
    }
    match cwd.canonicalize() {
        Ok(real) => Ok(inside(&real, granted).unwrap_or(real)),
        Err(_) if cwd.is_absolute() => Ok(cwd.to_path_buf()),
        Err(error) => Err(IsolationError::Invalid {
            what: format!("--cwd {}", cwd.display()),
            reason: format!("{error} — create it, or use an absolute path in the sandbox"),
        }),
    }
}
