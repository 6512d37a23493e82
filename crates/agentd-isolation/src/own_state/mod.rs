//! Protects the files that agentd trusts: its folders of data, of proofs and the key, of configuration and of sockets, and its
//! own executable. No sandbox may access these files. A payload that could write to them would control what later runs trust and
//! execute. A payload that could read them would reach sockets and the key.
//!
//! Covering such a folder inside a grant would not be sufficient, because a payload can rename a parent directory of the folder.
//! Therefore, [`checked`] refuses every grant that contains such a folder or lies in one, and makes the executable a protected
//! path, which stays read-only.

mod executable;
mod folders;
mod mounts;
mod overlap;
mod passwd;
mod private;

pub(crate) use folders::home;
pub use folders::{read_trusted_secret, trusted_folder, trusted_paths};
pub use private::{create, read, read_secret, replace};

use crate::grants;
use agentd_core::{Access, Grant, IsolationError, SandboxSpec};
use folders::{Folder, WhileMissing};
use mounts::Mounts;
use overlap::{FolderTree, GrantedTree, Objects};
use std::path::Path;

/// Resolves the grants of `spec` and checks them against the folders of agentd and against `more`, the folders of a backend.
/// Returns the spec with the executable of this process protected. Only the objects that were checked can be mounted.
///
/// # Errors
/// [`IsolationError::Invalid`] for a grant that contains one of these folders or lies in one, and the errors of [`grants::pin`].
pub fn checked(spec: SandboxSpec, more: &[&Path]) -> Result<SandboxSpec, IsolationError> {
    let spec = unchecked(spec)?;
    check(&spec.grants, more)?;
    Ok(spec)
}

/// Resolves the grants of `spec` and protects the executable, as [`checked`] does. The caller must call [`check`] before a
/// command can start in a sandbox with these grants.
///
/// # Errors
/// The errors of [`grants::pin`], and [`IsolationError::Io`] if the path of the executable cannot be read.
pub(crate) fn unchecked(mut spec: SandboxSpec) -> Result<SandboxSpec, IsolationError> {
    grants::pin(&mut spec)?;
    executable::protect(&mut spec.grants)?;
    Ok(spec)
}

/// Compares resolved grants with the folders of agentd and with `more`, the folders of a backend.
///
/// # Errors
/// [`IsolationError::Invalid`] for a grant that contains one of these folders or lies in one.
pub(crate) fn check(grants: &[Grant], more: &[&Path]) -> Result<(), IsolationError> {
    if grants.is_empty() {
        return Ok(());
    }
    let mut folders = folders::all();
    folders.extend(more.iter().map(|path| Folder::of_backend(path)));
    let failed = |grant: &Grant, source| IsolationError::Io {
        context: format!("compare grant {} with the folders of agentd", grant.path.display()),
        source,
    };
    let mounts = Mounts::read().map_err(|source| failed(&grants[0], source))?;
    let mut objects = Objects::default();
    let trees: Vec<_> = folders.iter().map(|folder| FolderTree::at(&folder.path, &mounts, &mut objects)).collect();
    for grant in grants {
        let granted = GrantedTree::at(&grant.path, &mounts, &mut objects).map_err(|source| failed(grant, source))?;
        let mut places = folders.iter().zip(&trees);
        if let Some((folder, reason)) = places.find_map(|(folder, tree)| Some((folder, refusal(grant, &granted, folder, tree)?)))
        {
            return Err(IsolationError::Invalid {
                what: format!("grant {}", grant.path.display()),
                reason: format!("{reason} {}, {} — {}", folder.path.display(), folder.holds, folder.remedy),
            });
        }
    }
    Ok(())
}

/// Returns the reason why `folder` forbids `grant`, if it does.
fn refusal(grant: &Grant, granted: &GrantedTree, folder: &Folder, tree: &FolderTree) -> Option<&'static str> {
    if granted.lies_in(tree) {
        return Some("the grant lies in");
    }
    let matters = tree.exists()
        || match folder.while_missing {
            WhileMissing::Allow => false,
            WhileMissing::RefuseWritable => grant.access == Access::ReadWrite,
            WhileMissing::RefuseAll => true,
        };
    (matters && granted.contains(tree)).then_some("the grant contains")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
