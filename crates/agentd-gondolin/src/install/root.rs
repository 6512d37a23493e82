//! The file tree of the guest: a Debian system, or a given tree, which is not changed.

use super::{
    downloads::Downloads,
    error::{IoContext, SetupError},
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

/// The script that removes unneeded files of a Debian system: package lists, caches, logs, documentation, device nodes, and the
/// contents of mount points.
const SHRINK: &str = "cd \"$1\" && rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* \
    usr/share/doc usr/share/man usr/share/locale \
    && rm -f dev/null dev/console dev/tty dev/zero dev/full dev/random dev/urandom dev/ptmx && rm -rf proc/* sys/* run/*";

/// A file tree, and a digest that identifies it.
pub(crate) struct Root {
    pub path: PathBuf,
    pub identity: String,
}

/// Returns the tree `given`, or that of a Debian system, after unpacking it if necessary.
pub(crate) fn root(home: &Path, downloads: &Downloads, given: Option<&Path>) -> Result<Root, SetupError> {
    if let Some(given) = given {
        let path = given.canonicalize().context(|| format!("resolve {}", given.display()))?;
        let identity = fingerprint(&path).context(|| format!("read {}", path.display()))?;
        return Ok(Root { path, identity });
    }
    let (packages, origin) = downloads.debian()?;
    let identity = digest(&packages)?;
    let path = part(home, "debian", &[&identity, SHRINK], |dir| {
        if !rustix::process::geteuid().is_root() {
            return Err(SetupError::NoProgram {
                program: "debootstrap for users other than root".to_owned(),
                remedy: "run `agentd gondolin setup` as root, or pass the file tree of the guest with --root".to_owned(),
            });
        }
        origin.unpack(&packages, dir)?;
        tool::run(Command::new("sh").args(["-euc", SHRINK, "sh"]).arg(dir), "install a POSIX shell").map(drop)
    })?;
    Ok(Root { path, identity })
}

/// Returns a digest of the paths, sizes, modes, owners and mtimes of all entries of a tree. File contents are not read.
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
    Ok(agentd_vm::sha256::hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_of_changed_tree_differs() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), "1").unwrap();
        let before = fingerprint(dir.path()).unwrap();
        assert_eq!(fingerprint(dir.path()).unwrap(), before);
        fs::write(dir.path().join("a/file"), "12").unwrap();
        assert_ne!(fingerprint(dir.path()).unwrap(), before);
    }
}
