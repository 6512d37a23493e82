//! Protects the executable of this process in a granted tree: the file stays read-only, and no directory above it can be renamed.

use agentd_core::{Access, Grant, IsolationError};
use std::path::PathBuf;

/// Adds the executable to the protected paths of every writable grant that contains it. The paths of the grants must not contain
/// links. Hard links to the executable in the grant need no protection while it runs: the kernel refuses to open an executed file
/// for writing (`open(2)`, `ETXTBSY`).
///
/// # Errors
/// Fails if the path of the executable cannot be read.
pub(super) fn protect(grants: &mut [Grant]) -> Result<(), IsolationError> {
    // If the program file was removed, the link names a path that ends with ` (deleted)` (`proc_pid_exe(5)`): no file is left to
    // protect.
    let executable = std::fs::read_link("/proc/self/exe")
        .map_err(|source| IsolationError::Io { context: "read the link of this program: /proc/self/exe".to_owned(), source })?;
    for grant in grants.iter_mut().filter(|grant| grant.access == Access::ReadWrite) {
        if let Ok(below) = executable.strip_prefix(&grant.path) {
            let below = PathBuf::from(below);
            if below.components().next().is_some() && !grant.protect.contains(&below) {
                grant.protect.push(below);
            }
        }
    }
    Ok(())
}
