//! The copy of the host's `/etc` in a root whose changes are kept.
//!
//! An earlier payload may have filled the root with links. This process still has the host's root directory, so an absolute link
//! would lead into the host's tree. Therefore each directory is opened in its parent without following links, and each file is
//! created by a single name in an open directory.

use crate::{ErrnoContext, mount::tree::open_beneath};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Name of an incomplete copy in the root.
const UNFINISHED: &str = ".etc.agentd";

/// Limits of a copy: entries, bytes of a file, bytes in total, and depth. A common `/etc` has 3,000 entries and 10 MiB.
const MAX_ENTRIES: usize = 20_000;
const MAX_OF_A_FILE: u64 = 4 << 20;
const MAX_BYTES: u64 = 64 << 20;
const MAX_DEPTH: usize = 64;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Copies the world-readable part of `host`, the host's `/etc`, into the root if the root has no `/etc` yet.
pub(super) fn copy(host: &OwnedFd, root: &OwnedFd, notes: &mut Vec<String>) -> Result<(), ControlError> {
    let at = |call: &'static str| move || format!("{call} a copy of the host's /etc");
    // A non-empty directory belongs to the sandbox.
    match rustix::fs::unlinkat(root, "etc", AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(_) => return Ok(()),
    }
    // Removes an interrupted copy, or an object that a payload has put in its place.
    agentd_disk::erase(root.as_fd(), OsStr::new(UNFINISHED)).during(Control::Mounts, at("erase an unfinished"))?;
    let to = make_directory(root, OsStr::new(UNFINISHED)).during(Control::Mounts, at("create"))?;
    let mut copy = Copy::default();
    copy.directory(host, &to, Path::new(""), 0)?;
    if copy.is_partial {
        notes.push(format!(
            "the host's /etc has more than {MAX_ENTRIES} entries, {MAX_BYTES} bytes or {MAX_DEPTH} levels: only a part was copied"
        ));
    }
    rustix::fs::renameat(root, UNFINISHED, root, "etc").during(Control::Mounts, at("finish"))
}

/// The state of a copy in progress.
#[derive(Default)]
struct Copy {
    entries: usize,
    bytes: u64,
    /// True if a limit was reached.
    is_partial: bool,
}

impl Copy {
    /// Copies the entries of `from` into `to`. `relative` is the path of `from` relative to `/etc`.
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, relative: &Path, depth: usize) -> Result<(), ControlError> {
        // A directory that this process may not list contains nothing world-readable.
        let Ok(names) = agentd_disk::names(from.as_fd()) else { return Ok(()) };
        for name in names {
            self.entries += 1;
            if self.entries > MAX_ENTRIES || self.bytes > MAX_BYTES || depth > MAX_DEPTH {
                self.is_partial = true;
                return Ok(());
            }
            self.entry((from, to), &name, &relative.join(&name), depth)?;
        }
        Ok(())
    }

    /// Copies the entry `name` of a directory. Skips an entry that cannot be read, because the host may remove or replace entries
    /// at any time.
    fn entry(&mut self, (from, to): (&OwnedFd, &OwnedFd), name: &OsStr, place: &Path, depth: usize) -> Result<(), ControlError> {
        let writing = || format!("copy /etc/{}", place.display());
        let Ok(Some(stat)) = agentd_disk::lstat(from.as_fd(), name) else { return Ok(()) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if super::is_open_to_all(&stat) => {
                let Ok(from) = open_beneath(from, Path::new(name), DIRECTORY) else { return Ok(()) };
                let to = make_directory(to, name).during(Control::Mounts, writing)?;
                self.directory(&from, &to, place, depth + 1)
            }
            FileType::Symlink => {
                let Ok(target) = rustix::fs::readlinkat(from, name, Vec::new()) else { return Ok(()) };
                rustix::fs::symlinkat(target, to, name).during(Control::Mounts, writing)
            }
            FileType::RegularFile => {
                let Some((stat, content)) = read(from, name) else { return Ok(()) };
                self.bytes += content.len() as u64;
                let mode = Mode::from_raw_mode(stat.st_mode & 0o755);
                let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(to, name, new, mode).during(Control::Mounts, writing)?;
                File::from(file).write_all(&content).during(Control::Mounts, writing)
            }
            // Other file types are not configuration.
            _ => Ok(()),
        }
    }
}

/// Creates the directory `name` in `parent`, where the name must be free, and opens it.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from(0o755))?;
    open_beneath(parent, Path::new(name), DIRECTORY)
}

/// Reads a world-readable regular file of at most [`MAX_OF_A_FILE`] bytes. Returns its attributes and content, or `None` for any
/// other file.
fn read(from: &OwnedFd, name: &OsStr) -> Option<(Stat, Vec<u8>)> {
    let file = open_beneath(from, Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    let is_regular = FileType::from_raw_mode(stat.st_mode).is_file();
    if !is_regular || !super::is_open_to_all(&stat) || u64::try_from(stat.st_size).ok()? > MAX_OF_A_FILE {
        return None;
    }
    let mut content = Vec::new();
    File::from(file).take(MAX_OF_A_FILE).read_to_end(&mut content).ok()?;
    Some((stat, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        path::PathBuf,
    };

    /// A directory that stands for the host's `/etc`, and a root; both are deleted with the test.
    struct EtcDirs(tempfile::TempDir);

    impl EtcDirs {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            for name in ["host/skel", "root", "outside"] {
                fs::create_dir_all(place.path().join(name)).unwrap();
            }
            fs::write(place.path().join("host/skel/.bashrc"), "of the host").unwrap();
            Self(place)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn open(&self, name: &str) -> OwnedFd {
            File::open(self.path(name)).unwrap().into()
        }

        fn copy(&self) {
            copy(&self.open("host"), &self.open("root"), &mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn copy_over_prepared_unfinished_copy_writes_nothing_outside_the_root() {
        for prepared in ["root/.etc.agentd/skel", "root/.etc.agentd"] {
            let place = EtcDirs::new();
            fs::write(place.path("outside/.bashrc"), "of a user").unwrap();
            fs::create_dir_all(place.path(prepared).parent().unwrap()).unwrap();
            symlink(place.path("outside"), place.path(prepared)).unwrap();
            place.copy();
            assert_eq!(fs::read_to_string(place.path("outside/.bashrc")).unwrap(), "of a user");
            assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 1);
            assert!(fs::symlink_metadata(place.path("root/etc/skel")).unwrap().is_dir());
            assert_eq!(fs::read_to_string(place.path("root/etc/skel/.bashrc")).unwrap(), "of the host");
        }
    }

    #[test]
    fn entry_that_vanishes_during_etc_copy_is_skipped() {
        let place = EtcDirs::new();
        let (from, to) = (place.open("host"), place.open("root"));
        Copy::default().entry((&from, &to), OsStr::new("gone"), Path::new("gone"), 0).unwrap();
        assert_eq!(fs::read_dir(place.path("root")).unwrap().count(), 0);
    }

    #[test]
    fn entries_not_world_readable_are_not_copied() {
        let place = EtcDirs::new();
        fs::create_dir(place.path("host/private")).unwrap();
        for (name, mode) in [("host/private/key", 0o644), ("host/shadow", 0o640), ("host/private", 0o750)] {
            if mode & 0o100 == 0 {
                fs::write(place.path(name), "secret").unwrap();
            }
            fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        place.copy();
        let copied: Vec<_> = agentd_disk::names(place.open("root/etc").as_fd()).unwrap();
        assert_eq!(copied, ["skel"]);
    }
}
