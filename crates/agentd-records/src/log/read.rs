//! Reads the files of a log, even while another process writes them.

use super::error::LogError;
use crate::{
    checkpoint::Checkpoint,
    merkle::Hash,
    note::{MAX_NOTE, SignedNote},
    tile::{self, FileKind, WIDTH},
};
use agentd_disk::{DiskError, FileContext as _};
use rustix::{
    fs::{Mode, OFlags, mkdirat, open, openat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The flags of a folder below which files are exported.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The name of the file of the checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Reads a log, without verifying it.
#[derive(Debug, Clone)]
pub struct LogReader {
    root: PathBuf,
}

impl LogReader {
    /// Returns a reader of the log in the folder `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Returns the checkpoint as it is on disk.
    ///
    /// # Errors
    /// [`LogError::None`] if there is no log, and the errors of reading it.
    pub fn note(&self) -> Result<SignedNote, LogError> {
        let path = self.root.join(CHECKPOINT);
        match read(&path, MAX_NOTE)? {
            Some(bytes) => Ok(SignedNote::parse(&bytes)?),
            None => Err(LogError::None(path)),
        }
    }

    /// Returns the first `width` items of a file.
    ///
    /// # Errors
    /// [`LogError::Missing`] if the file does not exist or has fewer items.
    pub(crate) fn items(&self, kind: FileKind, index: u64, width: u64) -> Result<Vec<u8>, LogError> {
        self.find(kind, index, width).map(|(_, bytes)| bytes)
    }

    /// Returns the file that has the first `width` items, and these items. The name of a partial file states a number of items,
    /// but only the contents decide: after a power failure, the file may have its previous name.
    ///
    /// # Errors
    /// As for [`LogReader::items`].
    pub(crate) fn find(&self, kind: FileKind, index: u64, width: u64) -> Result<(PathBuf, Vec<u8>), LogError> {
        let full = self.root.join(kind.full(index));
        if width == WIDTH {
            let bytes = read(&full, kind.max_bytes())?.ok_or_else(|| LogError::Missing(full.clone()))?;
            return match kind.prefix(&bytes, width) {
                Some(length) if length == bytes.len() => Ok((full, bytes)),
                _ => Err(LogError::Missing(full)),
            };
        }
        let folder = self.root.join(kind.partial(index));
        let mut earlier = None;
        loop {
            let listed = agentd_disk::entries(&folder)?;
            for path in listed.iter().chain([&full]) {
                let Some(mut bytes) = read(path, kind.max_bytes())? else { continue };
                if let Some(length) = kind.prefix(&bytes, width) {
                    bytes.truncate(length);
                    return Ok((path.clone(), bytes));
                }
            }
            // Only a writer changes the name of a file while it is looked for.
            if earlier.as_ref() == Some(&listed) {
                break;
            }
            earlier = Some(listed);
        }
        Err(LogError::Missing(folder.join(width.to_string())))
    }

    /// Returns `count` consecutive hashes of a level from `first` on, in a tree of `size` leaves. All of them lie in one tile.
    ///
    /// # Errors
    /// As for [`LogReader::items`].
    pub(crate) fn hashes(&self, size: u64, level: usize, first: u64, count: u64) -> Result<Vec<Hash>, LogError> {
        let (index, start) = (first / WIDTH, first % WIDTH);
        let kind = FileKind::Hashes(level);
        let bytes = self.items(kind, index, width(size, level, index))?;
        let source = |source| LogError::File { path: self.root.join(kind.full(index)), source };
        let hashes = tile::hashes(&bytes).map_err(source)?;
        let range = |from: u64| usize::try_from(from).unwrap_or(usize::MAX);
        let some = hashes.get(range(start)..range(start + count));
        Ok(some.ok_or_else(|| LogError::Missing(self.root.join(kind.full(index))))?.to_vec())
    }

    /// Returns the number of bundles of a log of `size` leaves.
    pub fn bundles(size: u64) -> u64 {
        size.div_ceil(WIDTH)
    }

    /// Returns the bytes of the leaves of a bundle, in a log of `size` leaves.
    ///
    /// # Errors
    /// [`LogError::Missing`] if the file of the bundle does not exist or has fewer items, and [`LogError::File`].
    pub fn bundle(&self, size: u64, index: u64) -> Result<Vec<Vec<u8>>, LogError> {
        let bytes = self.items(FileKind::Entries, index, width(size, 0, index))?;
        let source = |source| LogError::File { path: self.root.join(FileKind::Entries.full(index)), source };
        Ok(tile::entries(&bytes).map_err(source)?.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Returns the bytes of one leaf, in a log of `size` leaves.
    ///
    /// # Errors
    /// [`LogError::NoLeaf`], and those of [`LogReader::bundle`].
    pub fn leaf(&self, size: u64, index: u64) -> Result<Vec<u8>, LogError> {
        if index >= size {
            return Err(LogError::NoLeaf { index, size });
        }
        let mut bundle = self.bundle(size, index / WIDTH)?;
        Ok(bundle.swap_remove(usize::try_from(index % WIDTH).unwrap_or_default()))
    }

    /// Copies the log at `checkpoint` into the new directory `to`, with exactly the files that the specification names.
    ///
    /// # Errors
    /// [`LogError::Exists`] if the directory exists, and the errors of reading and writing.
    pub fn export(&self, note: &SignedNote, checkpoint: &Checkpoint, to: &Path) -> Result<(), LogError> {
        match std::fs::create_dir(to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(LogError::Exists(to.to_path_buf())),
            made => made.during("create", to)?,
        }
        let directory = open(to, FOLDER, Mode::empty()).during("open", to)?;
        for kind in std::iter::once(FileKind::Entries).chain((0..tile::LEVELS).map(FileKind::Hashes)) {
            let level = if let FileKind::Hashes(level) = kind { level } else { 0 };
            for index in 0..tile::items(checkpoint.size, level).div_ceil(WIDTH) {
                let width = width(checkpoint.size, level, index);
                let name = if width == WIDTH { kind.full(index) } else { kind.partial(index).join(width.to_string()) };
                write_new(&directory, to, &name, &self.items(kind, index, width)?)?;
            }
        }
        Ok(write_new(&directory, to, Path::new(CHECKPOINT), note.to_string().as_bytes())?)
    }
}

/// Returns the number of items of a file, in a tree of `size` leaves.
pub(crate) fn width(size: u64, level: usize, index: u64) -> u64 {
    tile::items(size, level).saturating_sub(index.saturating_mul(WIDTH)).min(WIDTH)
}

/// Writes the new file `name` below `root`, whose path is `to`. Others may be able to change the directory, so this follows no
/// link and opens no file that exists.
fn write_new(root: &OwnedFd, to: &Path, name: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let (mut folder, path) = (None::<OwnedFd>, to.join(name));
    for part in name.parent().into_iter().flat_map(Path::iter) {
        let at = folder.as_ref().unwrap_or(root);
        match mkdirat(at, part, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).during("create the folders of", &path),
        }
        folder = Some(openat(at, part, FOLDER, Mode::empty()).during("open the folders of", &path)?);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = name.file_name().unwrap_or_default();
    let opened = openat(folder.as_ref().unwrap_or(root), file, flags, Mode::from_raw_mode(0o666)).during("create", &path)?;
    File::from(opened).write_all(bytes).during("write", &path)
}

/// Reads at most `limit` bytes of a regular file; `None` if the file does not exist. Does not wait for a FIFO or a device.
fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, DiskError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(errno) if errno == rustix::io::Errno::NOENT => return Ok(None),
        Err(errno) => return Err(errno).during("open", path),
    };
    if !file.metadata().during("stat", path)?.is_file() {
        return Err(io::Error::other("not a regular file")).during("read", path);
    }
    let mut bytes = Vec::new();
    // One byte more than the limit shows that the file is too long, and makes its contents invalid.
    file.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes).during("read", path)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn export_follows_no_link_and_changes_no_file() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("exported")).unwrap();
        fs::create_dir(path("outside")).unwrap();
        fs::write(path("victim"), "keep").unwrap();
        symlink(path("victim"), path("exported/checkpoint")).unwrap();
        symlink(path("outside"), path("exported/tile")).unwrap();
        fs::write(path("exported/file"), "keep").unwrap();
        let directory = open(path("exported"), FOLDER, Mode::empty()).unwrap();
        for name in ["checkpoint", "tile/0/000", "file"] {
            assert!(write_new(&directory, &path("exported"), Path::new(name), b"new").is_err(), "{name}");
        }
        assert_eq!(
            (fs::read(path("victim")).unwrap(), fs::read(path("exported/file")).unwrap()),
            (b"keep".into(), b"keep".into())
        );
        assert_eq!(fs::read_dir(path("outside")).unwrap().count(), 0);
        write_new(&directory, &path("exported"), Path::new("new/0/000"), b"new").unwrap();
        assert_eq!(fs::read(path("exported/new/0/000")).unwrap(), b"new");
        assert!(open(path("exported/checkpoint"), FOLDER, Mode::empty()).is_err());
    }
}
