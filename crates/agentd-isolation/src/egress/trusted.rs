//! The places of the certificates with which the gateway verifies servers. A command that can change them could have the gateway
//! send secrets to a server of its own.

use crate::grants::{places, shows};
use agentd_core::{Access, Grant, IsolationError};
use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The variables that name the certificates, first that of a file, then that of a list of directories.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Refuses certificates that lie in a writable grant, or to which a link in a writable grant leads.
///
/// # Errors
/// [`IsolationError::Invalid`] for the variable that names them.
pub(super) fn check(grants: &[Grant]) -> Result<(), IsolationError> {
    VARIABLES.into_iter().try_for_each(|name| env::var_os(name).map_or(Ok(()), |value| check_variable(name, &value, grants)))
}

fn check_variable(name: &str, value: &OsStr, grants: &[Grant]) -> Result<(), IsolationError> {
    let named: Vec<PathBuf> = if name == VARIABLES[0] { vec![value.into()] } else { env::split_paths(value).collect() };
    let changeable = |path: &PathBuf| {
        let mut on_the_way = places(path).unwrap_or_else(|_| vec![path.clone()]).into_iter();
        on_the_way.any(|place| grants.iter().any(|grant| grant.access == Access::ReadWrite && shows(grant, &place)))
    };
    match named.iter().flat_map(|path| std::iter::once(path.clone()).chain(entries(path))).find(changeable) {
        None => Ok(()),
        Some(path) => Err(IsolationError::Invalid {
            what: format!("{name}: {}", path.display()),
            reason:
                "the command could change these certificates, and so which servers get requests with secrets — move them out of \
                     the workspace and of writable grants, or unset the variable"
                    .to_owned(),
        }),
    }
}

/// Returns the entries of a directory: links in it may lead elsewhere.
fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn certificates_that_a_command_can_change_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["work/certs", "safe", "linked", "read"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["work/ca.pem", "safe/ca.pem", "read/ca.pem"] {
            fs::write(root.join(file), "").unwrap();
        }
        symlink("../work/ca.pem", root.join("linked/ca.pem")).unwrap();
        symlink("../safe/ca.pem", root.join("work/out.pem")).unwrap();
        let grants = [Grant::new(root.join("work"), Access::ReadWrite), Grant::new(root.join("read"), Access::ReadOnly)];
        let check = |name: &str, paths: &[&str]| {
            let value = env::join_paths(paths.iter().map(|path| root.join(path))).unwrap();
            check_variable(name, &value, &grants).map_err(|error| error.to_string())
        };
        for path in ["work/ca.pem", "linked/ca.pem", "work/out.pem", "work/missing.pem"] {
            let error = check("SSL_CERT_FILE", &[path]).unwrap_err();
            assert!(error.contains("SSL_CERT_FILE: ") && error.contains(" — move them out"), "{path}: {error}");
        }
        for directories in [&["safe", "work/certs"][..], &["linked"]] {
            assert!(check("SSL_CERT_DIR", directories).is_err(), "{directories:?}");
        }
        for (name, paths) in
            [("SSL_CERT_FILE", &["safe/ca.pem"][..]), ("SSL_CERT_FILE", &["read/ca.pem"]), ("SSL_CERT_DIR", &["safe", "read"])]
        {
            assert_eq!(check(name, paths), Ok(()), "{paths:?}");
        }
    }
}
