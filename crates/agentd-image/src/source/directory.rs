//! Writes a directory as a tar stream, so that it is imported like every other layer. The same checks apply, and the digest
//! depends only on the contents: names are sorted, and times are whole seconds.
//!
//! The directory may belong to another user and may change while it is read. Each file is opened relative to the descriptor of
//! its directory, and no symbolic link is followed, so no content from outside is included.

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};
use tar::{Builder, EntryType, Header};

/// Maximum depth of directories; each level keeps one descriptor open.
const MAX_LEVELS: usize = 256;
const ENTER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Writes `directory` as a tar stream to `to`.
pub(crate) fn write(directory: &File, to: impl Write) -> io::Result<()> {
    let stat = rustix::fs::fstat(directory)?;
    let mut writer = Writer { tar: Builder::new(to), device: stat.st_dev, links: HashMap::new() };
    writer.append(b"./", &stat, EntryType::Directory, b"", &attributes(directory)?, io::empty())?;
    let directory = rustix::fs::openat(directory, ".", ENTER, Mode::empty())?;
    writer.contents(&directory, b"", 0)?;
    writer.tar.into_inner()?.flush()
}

struct Writer<W: Write> {
    tar: Builder<W>,
    device: u64,
    /// The first name of each file that has several, by inode number.
    links: HashMap<u64, Vec<u8>>,
}

impl<W: Write> Writer<W> {
    fn contents(&mut self, directory: &OwnedFd, path: &[u8], level: usize) -> io::Result<()> {
        if level > MAX_LEVELS {
            return Err(io::Error::other("directories are nested deeper than 256 levels"));
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let inner = [path, name.as_bytes()].concat();
            self.entry(directory, &name, &inner, level).map_err(|error| naming(error, &inner))?;
        }
        Ok(())
    }

    fn entry(&mut self, directory: &OwnedFd, name: &CString, path: &[u8], level: usize) -> io::Result<()> {
        let stat = rustix::fs::statat(directory, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                let first = first.clone();
                return self.append(path, &stat, EntryType::Link, &first, &[], io::empty());
            }
            self.links.insert(stat.st_ino, path.to_owned());
        }
        match kind {
            FileType::Directory => {
                let inner = rustix::fs::openat(directory, name.as_c_str(), ENTER, Mode::empty())?;
                let path = [path, b"/"].concat();
                self.append(&path, &stat, EntryType::Directory, b"", &attributes(&inner)?, io::empty())?;
                // A mount point inside the tree (`/proc` in a running system) belongs to another file system: its contents are
                // skipped.
                if rustix::fs::fstat(&inner)?.st_dev == self.device { self.contents(&inner, &path, level + 1) } else { Ok(()) }
            }
            FileType::RegularFile => {
                let file = File::from(rustix::fs::openat(directory, name.as_c_str(), READ, Mode::empty())?);
                let stat = rustix::fs::fstat(&file)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(io::Error::other("file type changed during the read"));
                }
                let attributes = attributes(&file)?;
                let left = u64::try_from(stat.st_size).unwrap_or(0);
                self.append(path, &stat, EntryType::Regular, b"", &attributes, ExactReader { file, left })
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name.as_c_str(), Vec::new())?;
                self.append(path, &stat, EntryType::Symlink, target.as_bytes(), &[], io::empty())
            }
            FileType::Fifo => self.append(path, &stat, EntryType::Fifo, b"", &[], io::empty()),
            FileType::CharacterDevice => self.append(path, &stat, EntryType::Char, b"", &[], io::empty()),
            FileType::BlockDevice => self.append(path, &stat, EntryType::Block, b"", &[], io::empty()),
            // A socket has no use without the process behind it, and tar cannot represent it.
            _ => Ok(()),
        }
    }

    fn append(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: EntryType,
        link: &[u8],
        attributes: &[(String, Vec<u8>)],
        data: impl Read,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut extended: Vec<(&str, &[u8])> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        // The fields are copied byte by byte, because the `tar` crate would normalise some names.
        match header.as_mut_bytes().get_mut(..path.len()).filter(|_| path.len() <= 100) {
            Some(field) => field.copy_from_slice(path),
            None => extended.push(("path", path)),
        }
        match header.as_mut_bytes().get_mut(157..157 + link.len()).filter(|_| link.len() <= 100) {
            Some(field) => field.copy_from_slice(link),
            None => extended.push(("linkpath", link)),
        }
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(if kind == EntryType::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 });
        header.set_cksum();
        self.tar.append_pax_extensions(extended)?;
        self.tar.append(&header, data)
    }
}

/// Returns the `user.*` extended attributes, which carry no authority, under the keys of a `pax` header.
fn attributes(file: impl AsFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&file, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok()) {
        // A `pax` key ends at the first `=`, so a name that contains one cannot be represented.
        if name.starts_with("user.") && !name.contains('=') {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::fgetxattr(&file, OsStr::new(name), &mut value[..])?;
            value.truncate(length);
            attributes.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    attributes.sort();
    Ok(attributes)
}

/// An error with the path of the entry at which it occurred.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
struct AtPath {
    path: String,
    source: io::Error,
}

/// Adds the path of an entry to an error, unless a call for an inner entry has added one. The error's kind is kept.
fn naming(error: io::Error, path: &[u8]) -> io::Error {
    if error.get_ref().is_some_and(|payload| payload.is::<AtPath>()) {
        return error;
    }
    io::Error::new(error.kind(), AtPath { path: String::from_utf8_lossy(path).into_owned(), source: error })
}

/// Reads exactly as many bytes as the header declares, or fails: a file that shrank would shift all entries after it.
struct ExactReader {
    file: File,
    left: u64,
}

impl Read for ExactReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let max = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..max])?;
        if read == 0 && max > 0 {
            return Err(io::Error::other("file shrank during the read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_an_entry_names_the_innermost_path_and_the_cause() {
        for error in [io::Error::other("shrank while it was read"), io::Error::from(Errno::ACCESS)] {
            let (kind, cause) = (error.kind(), error.to_string());
            let named = naming(naming(error, b"etc/shadow"), b"etc");
            assert_eq!((named.kind(), named.to_string()), (kind, format!("etc/shadow: {cause}")));
        }
    }
}
