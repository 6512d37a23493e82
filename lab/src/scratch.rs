//! Temporary directories that do not accumulate when runs are killed. Each directory is locked while its creator is alive;
//! creating a directory removes unlocked ones next to it.

use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs::{self, DirBuilder, File},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Prefix of the directories' names.
const PREFIX: &str = "run-";

/// Name of the lock file in the directory.
const LOCK: &str = "lock";

/// A locked directory; dropping the value removes the directory.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Creates a directory in `parent` and removes abandoned directories there. Calls `before` with each abandoned directory
    /// before its removal.
    pub fn new(parent: &Path, before: impl Fn(&Path)) -> Result<Self, LabError> {
        // One creator at a time: a directory without a lock may have just been created.
        let making = File::from(open_lock(&open_own(parent)?).on("open the lock file in", parent)?);
        making.lock().on("take the lock in", parent)?;
        for entry in fs::read_dir(parent).on("list", parent)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
                before(&entry.path());
                remove(&entry.path());
            }
        }
        let folder =
            tempfile::Builder::new().prefix(PREFIX).rand_bytes(4).tempdir_in(parent).on("create a folder in", parent)?.keep();
        // Ordinary users can reach their files in the directory, but cannot list it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711)).on("chmod", &folder)?;
        let lock = File::create(folder.join(LOCK)).on("create the lock file in", &folder)?;
        lock.lock().on("take the lock in", &folder)?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Opens a directory that only this user can write to; creates it if necessary. Another user may have created a directory or a
/// link of that name in `/tmp`.
fn open_own(folder: &Path) -> Result<OwnedFd, LabError> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder).on("mkdir", folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).on("open", folder)?;
    let stat = rustix::fs::fstat(&opened).on("stat", folder)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
        return Err(format_error(folder.display(), "other users own it or can write to it — remove it, or set TMPDIR"));
    }
    Ok(opened)
}

/// Opens the lock file in a directory; creates it if necessary. Does not follow a link, and does not truncate the file.
fn open_lock(folder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, LOCK, flags, Mode::RUSR | Mode::WUSR)
}

fn is_abandoned(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => true,
    }
}

/// Removes a directory, which may contain files of root and of other users.
fn remove(folder: &Path) {
    let rm = |mut rm: Command| tool::output(rm.args(["-rf", "--one-file-system", "--"]).arg(folder));
    if let Err(error) = rm(Command::new("rm")).or_else(|_| rm(tool::as_root("rm"))) {
        eprintln!("xtask: cannot remove an old directory: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn new_scratch_removes_abandoned_directories_only() {
        let parent = tempfile::tempdir().unwrap();
        let abandoned = parent.path().join("run-abandoned/deep");
        fs::create_dir_all(&abandoned).unwrap();
        fs::write(parent.path().join("run-abandoned/lock"), "").unwrap();
        let half_made = parent.path().join("run-half-made");
        fs::create_dir(&half_made).unwrap();
        let live = Scratch::new(parent.path(), |_| ()).unwrap();
        assert!(!abandoned.exists() && !half_made.exists());
        let next = Scratch::new(parent.path(), |_| ()).unwrap();
        assert!(live.path().exists());
        drop((live, next));
        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["lock"]);
    }

    #[test]
    fn unsafe_parent_is_refused_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let victim = place.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        let refused = |name: &str, prepare: &dyn Fn(&Path)| {
            let parent = place.path().join(name);
            fs::create_dir(&parent).unwrap();
            prepare(&parent);
            assert!(Scratch::new(&parent, |_| ()).is_err(), "{name}");
            assert_eq!(fs::read(&victim).unwrap(), b"kept", "{name}");
        };
        refused("lock-is-a-link", &|parent| symlink(&victim, parent.join(LOCK)).unwrap());
        refused("all-may-write", &|parent| fs::set_permissions(parent, fs::Permissions::from_mode(0o1777)).unwrap());
        refused("parent-is-a-link", &|parent| {
            fs::rename(parent, place.path().join("elsewhere")).unwrap();
            symlink("elsewhere", parent).unwrap();
        });
        // Only root can change the owner of a directory.
        if rustix::process::geteuid().is_root() {
            refused("of-another-user", &|parent| chown(parent, Some(65534), None).unwrap());
        }
    }
}
