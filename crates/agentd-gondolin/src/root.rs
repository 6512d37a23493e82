//! The file tree of the guest: a Debian, or one that is given. It is not changed.

use crate::{
    downloads::Downloads,
    error::{Context, SetupError},
    part::{digest, part},
    tool,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

/// Makes a Debian small: what only takes room, and what would be run at every start.
const SHRINK: &str = "cd \"$1\" && rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* usr/share/doc usr/share/man usr/share/locale \
    && rm -f dev/null dev/console dev/tty dev/zero dev/full dev/random dev/urandom dev/ptmx && rm -rf proc/* sys/* run/*";

/// A tree, and what tells it from another.
pub(crate) struct Root {
    pub path: PathBuf,
    pub identity: String,
}

/// The tree `given`, or a Debian.
pub(crate) fn root(home: &Path, downloads: &Downloads, given: Option<&Path>) -> Result<Root, SetupError> {
    if let Some(given) = given {
        let path = given.canonicalize().context(|| format!("find {}", given.display()))?;
        let identity = fingerprint(&path).context(|| format!("read {}", path.display()))?;
        return Ok(Root { path, identity });
    }
    let (packages, origin) = downloads.debian()?;
    let identity = digest(&packages)?;
    let path = part(home, "debian", &[&identity, SHRINK], |dir| {
        if !rustix::process::geteuid().is_root() {
            return Err(SetupError::NoProgram {
                program: "debootstrap that an ordinary user can run".to_owned(),
                remedy: "give the guest's file tree with --root, or set up as root".to_owned(),
            });
        }
        origin.unpack(&packages, dir)?;
        tool::run(Command::new("sh").args(["-euc", SHRINK, "sh"]).arg(dir), "").map(drop)
    })?;
    Ok(Root { path, identity })
}

/// A digest of the names, sizes, modes and times of all that is in a tree.
fn fingerprint(root: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut next = vec![root.to_path_buf()];
    while let Some(dir) = next.pop() {
        let mut entries = fs::read_dir(&dir)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let meta = entry.metadata()?;
            let path = entry.path();
            hasher.update(path.as_os_str().as_bytes());
            for number in [0, meta.size(), u64::from(meta.mode()), u64::from(meta.uid()), u64::from(meta.gid())] {
                hasher.update(number.to_le_bytes());
            }
            hasher.update(meta.mtime().to_le_bytes());
            hasher.update(meta.mtime_nsec().to_le_bytes());
            if meta.is_dir() {
                next.push(path);
            }
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_has_changed_is_told_from_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), "1").unwrap();
        let before = fingerprint(dir.path()).unwrap();
        assert_eq!(fingerprint(dir.path()).unwrap(), before);
        fs::write(dir.path().join("a/file"), "12").unwrap();
        assert_ne!(fingerprint(dir.path()).unwrap(), before);
    }
}
