//! A series of files that grows: the entry bundles, or the tiles of a level. Only the last file changes. Its items are appended,
//! and then its name is changed to the new number of items.

use crate::tile::{FileKind, WIDTH};
use agentd_disk::{DiskError, FileContext as _, flush_directory};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The name of a file that is written before it replaces the last file.
const DRAFT: &str = "draft";

/// Whether the last file is flushed with each commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// The file is flushed.
    Always,
    /// The file is flushed when it is full. Until then, its contents can be computed.
    WhenFull,
}

/// The files of one series, open for appending.
pub(super) struct Series {
    root: PathBuf,
    kind: FileKind,
    flush: Flush,
    /// The number of items, including those that are not written yet.
    count: u64,
    /// The items that are not written yet. All of them belong to one file.
    unwritten: Vec<u8>,
    last: Option<LastFile>,
}

/// The last file, while it is not full.
struct LastFile {
    file: File,
    path: PathBuf,
}

impl Series {
    /// Continues a series of `count` items. `found` is the path of the last file, and its first items, if it is not full.
    pub fn resume(
        root: &Path,
        kind: FileKind,
        flush: Flush,
        count: u64,
        found: Option<(&Path, &[u8])>,
    ) -> Result<Self, DiskError> {
        let mut series = Self { root: root.to_path_buf(), kind, flush, count, unwritten: Vec::new(), last: None };
        if let Some((path, items)) = found {
            series.reopen(path, items)?;
        }
        Ok(series)
    }

    /// Appends an item. A full file is written and flushed immediately.
    pub fn push(&mut self, item: &[u8]) -> Result<(), DiskError> {
        self.unwritten.extend(item);
        self.count += 1;
        if self.count.is_multiple_of(WIDTH) { self.complete() } else { Ok(()) }
    }

    /// Writes all items.
    pub fn commit(&mut self) -> Result<(), DiskError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let width = self.count % WIDTH;
        let flush = self.flush;
        let last = self.write()?;
        if flush == Flush::Always {
            last.file.sync_data().during("sync", &last.path)?;
        }
        last.rename(width)
    }

    fn complete(&mut self) -> Result<(), DiskError> {
        let index = (self.count - 1) / WIDTH;
        let (full, folder) = (self.root.join(self.kind.full(index)), self.root.join(self.kind.partial(index)));
        let last = self.write()?;
        last.file.sync_all().during("sync", &last.path)?;
        fs::rename(&last.path, &full).during("rename to", &full)?;
        self.last = None;
        remove_folder(&folder)?;
        flush_parent(&full)
    }

    /// Appends the unwritten items to the last file, which is created if necessary.
    fn write(&mut self) -> Result<&mut LastFile, DiskError> {
        let mut last = match self.last.take() {
            Some(last) => last,
            None => self.create()?,
        };
        last.file.write_all(&self.unwritten).during("write", &last.path)?;
        self.unwritten.clear();
        Ok(self.last.insert(last))
    }

    /// Creates the file of the unwritten items. A file of this name that an interrupted commit left is removed.
    fn create(&self) -> Result<LastFile, DiskError> {
        let (index, width) = ((self.count - 1) / WIDTH, (self.count - 1) % WIDTH + 1);
        let full = self.root.join(self.kind.full(index));
        remove_file(&full)?;
        let folder = self.root.join(self.kind.partial(index));
        remove_folder(&folder)?;
        make_folders(&self.root, &folder)?;
        let path = folder.join(width.to_string());
        let file = create_file(&path)?;
        flush_directory(&folder)?;
        Ok(LastFile { file, path })
    }

    /// Opens the last file, and truncates data that an interrupted commit left after the items of the file.
    fn reopen(&mut self, path: &Path, items: &[u8]) -> Result<(), DiskError> {
        let (index, width) = (self.count / WIDTH, self.count % WIDTH);
        let folder = self.root.join(self.kind.partial(index));
        make_folders(&self.root, &folder)?;
        let mut last = match self.flush {
            Flush::Always => {
                let file = OpenOptions::new().append(true).open(path).during("open", path)?;
                file.set_len(items.len() as u64).during("truncate", path)?;
                LastFile { file, path: path.to_path_buf() }
            }
            // A power failure may have damaged the file. Readers find the previous file until the new one replaces it.
            Flush::WhenFull => {
                let path = folder.join(DRAFT);
                remove_file(&path)?;
                let mut file = create_file(&path)?;
                file.write_all(items).during("write", &path)?;
                LastFile { file, path }
            }
        };
        last.file.sync_all().during("sync", &last.path)?;
        let named = folder.join(width.to_string());
        fs::rename(&last.path, &named).during("rename to", &named)?;
        last.path = named;
        for other in agentd_disk::entries(&folder)?.into_iter().filter(|other| *other != last.path) {
            remove_file(&other)?;
        }
        remove_file(&self.root.join(self.kind.full(index)))?;
        flush_directory(&folder)?;
        flush_parent(&folder)?;
        self.last = Some(last);
        Ok(())
    }
}

impl LastFile {
    fn rename(&mut self, width: u64) -> Result<(), DiskError> {
        let path = self.path.with_file_name(width.to_string());
        if path != self.path {
            fs::rename(&self.path, &path).during("rename to", &path)?;
            self.path = path;
        }
        Ok(())
    }
}

/// Creates the missing folders from `root` to `folder`, durably.
fn make_folders(root: &Path, folder: &Path) -> Result<(), DiskError> {
    let below = folder.strip_prefix(root).unwrap_or(folder);
    let mut path = root.to_path_buf();
    for component in below.components() {
        let parent = path.clone();
        path.push(component);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made.during("create", &path)?;
                flush_directory(&parent)?;
            }
        }
    }
    Ok(())
}

fn create_file(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).during("create", path)
}

fn flush_parent(path: &Path) -> Result<(), DiskError> {
    path.parent().map_or(Ok(()), flush_directory)
}

fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", path),
    }
}

fn remove_folder(path: &Path) -> Result<(), DiskError> {
    for file in agentd_disk::entries(path)? {
        remove_file(&file)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", path),
    }
}
