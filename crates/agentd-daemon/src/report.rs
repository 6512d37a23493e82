//! Replies that may be longer than a frame: they are sent as a file in memory.

use crate::error::DaemonError;
use agentd_sandboxes::{Change, ChangeKind, Problem};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

/// A problem in the data on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Description of the problem, and the remedy.
    pub text: String,
    /// True if the data of a sandbox is damaged, or may be.
    pub is_damage: bool,
}

/// The byte that ends an entry: neither a path nor a text contains it.
const END: u8 = 0;

/// Writes each change as one byte for its kind, its path, and the end byte.
pub(crate) fn write_changes(changes: &[Change]) -> Result<OwnedFd, DaemonError> {
    file(changes.iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Added => b'A',
            ChangeKind::Changed => b'C',
            ChangeKind::Removed => b'D',
        };
        [&[kind], change.path.as_os_str().as_bytes(), &[END]].concat()
    }))
}

pub(crate) fn read_changes(file: OwnedFd) -> Result<Vec<Change>, DaemonError> {
    let change = |(kind, path): (u8, &[u8])| {
        let kind = match kind {
            b'A' => ChangeKind::Added,
            b'C' => ChangeKind::Changed,
            b'D' => ChangeKind::Removed,
            _ => return None,
        };
        Some(Change { kind, path: OsStr::from_bytes(path).into() })
    };
    entries(file, change)
}

/// Writes each problem as one byte that marks damage, its text, and the end byte.
pub(crate) fn write_problems(problems: &[Problem]) -> Result<OwnedFd, DaemonError> {
    file(problems.iter().map(|problem| {
        let kind = if problem.is_damage() { b'!' } else { b'-' };
        [&[kind], problem.to_string().replace('\0', " ").as_bytes(), &[END]].concat()
    }))
}

pub(crate) fn read_findings(file: OwnedFd) -> Result<Vec<Finding>, DaemonError> {
    let finding = |(kind, text): (u8, &[u8])| {
        let text = String::from_utf8_lossy(text).into_owned();
        matches!(kind, b'!' | b'-').then_some(Finding { text, is_damage: kind == b'!' })
    };
    entries(file, finding)
}

fn file(entries: impl Iterator<Item = Vec<u8>>) -> Result<OwnedFd, DaemonError> {
    let write = || -> io::Result<OwnedFd> {
        let mut file = io::BufWriter::new(File::from(rustix::fs::memfd_create("report", rustix::fs::MemfdFlags::CLOEXEC)?));
        for entry in entries {
            file.write_all(&entry)?;
        }
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file.into())
    };
    write().map_err(DaemonError::io("write the reply to a memory file"))
}

fn entries<T>(file: OwnedFd, entry: impl Fn((u8, &[u8])) -> Option<T>) -> Result<Vec<T>, DaemonError> {
    let invalid = || {
        DaemonError::Refused(
            "read the daemon's reply: invalid entry — run `agentd daemon stop`, which ends all running \
             commands and keeps all files, then try again"
                .to_owned(),
        )
    };
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).map_err(DaemonError::io("read the daemon's reply"))?;
    let entries = bytes.split(|byte| *byte == END).filter(|entry| !entry.is_empty());
    entries.map(|bytes| bytes.split_first().and_then(|(kind, rest)| entry((*kind, rest))).ok_or_else(invalid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_write_and_read() {
        let path = |bytes: &[u8]| OsStr::from_bytes(bytes).into();
        let changes = [
            Change { path: path(b"a"), kind: ChangeKind::Added },
            Change { path: path(b"b\n/\xff"), kind: ChangeKind::Changed },
            Change { path: path(b"c"), kind: ChangeKind::Removed },
        ];
        assert_eq!(read_changes(write_changes(&changes).unwrap()).unwrap(), changes);
        assert_eq!(read_changes(write_changes(&[]).unwrap()).unwrap(), []);
    }
}
