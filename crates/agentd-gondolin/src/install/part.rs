//! The parts of an installation: directories that are complete or do not exist.

use super::error::{IoContext, SetupError};
use agentd_vm::sha256;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The prefix of the names of incomplete parts.
pub(crate) const UNFINISHED: &str = ".new-";

/// Returns the directory below `home` for the part of this `kind` and these `inputs`. If the part does not exist, calls
/// `make` with an empty directory and moves that into place.
pub(crate) fn part(
    home: &Path,
    kind: &str,
    inputs: &[&str],
    make: impl FnOnce(&Path) -> Result<(), SetupError>,
) -> Result<PathBuf, SetupError> {
    let path = home.join(format!("{kind}-{}", digest_of(inputs)));
    if path.is_dir() {
        return Ok(path);
    }
    let fresh =
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(home).context(|| "create a temporary directory".to_owned())?;
    // Sandboxes of another user also read the part.
    fs::set_permissions(fresh.path(), Permissions::from_mode(0o755)).context(|| format!("chmod {}", fresh.path().display()))?;
    make(fresh.path())?;
    fs::rename(fresh.keep(), &path).context(|| format!("rename the new part to {}", path.display()))?;
    Ok(path)
}

/// Returns a short digest of a list. The length of each entry is also hashed, so that different lists have different digests.
fn digest_of(inputs: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for input in inputs {
        hasher.update((input.len() as u64).to_le_bytes());
        hasher.update(input);
    }
    sha256::hex(&hasher.finalize()[..8])
}

/// Returns the SHA-256 digest of a file.
pub(crate) fn digest(path: &Path) -> Result<String, SetupError> {
    Ok(sha256::of_file(path).context(|| format!("read {}", path.display()))?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_is_built_once_per_ingredients_and_removed_after_failure() {
        let home = tempfile::tempdir().unwrap();
        let fill = |name: &'static str| move |dir: &Path| fs::write(dir.join(name), name).context(|| "write".to_owned());
        let one = part(home.path(), "x", &["a", "b"], fill("one")).unwrap();
        assert_eq!(part(home.path(), "x", &["a", "b"], |_| panic!("an existing part is built again")).unwrap(), one);
        assert!(one.join("one").is_file());
        for others in [&["ab"][..], &["a", "b", ""], &["b", "a"]] {
            assert_ne!(part(home.path(), "x", others, fill("two")).unwrap(), one);
        }
        let failing = |dir: &Path| {
            fill("half")(dir)?;
            Err(SetupError::NoProgram { program: "p".to_owned(), remedy: "r".to_owned() })
        };
        assert!(part(home.path(), "y", &[], failing).is_err());
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.to_string_lossy().starts_with("x-")), "{left:?}");
    }
}
