//! Answers that may be longer than a frame: they travel as a file in memory.

use crate::error::KeeperError;
use agentd_sandboxes::{Change, Kind, Problem};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

/// One thing that is not as it should be in what is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is, and what to do.
    pub text: String,
    /// Whether a sandbox is not, or may not be, what it was.
    pub is_damage: bool,
}

/// What ends an entry: no path has it, and no text.
const END: u8 = 0;

/// Each change as one byte for its kind, its path, and the end.
pub(crate) fn write_changes(changes: &[Change]) -> Result<OwnedFd, KeeperError> {
    file(changes.iter().map(|change| {
        let kind = match change.kind {
            Kind::Added => b'A',
            Kind::Changed => b'C',
            Kind::Removed => b'D',
        };
        [&[kind], change.path.as_os_str().as_bytes(), &[END]].concat()
    }))
}

pub(crate) fn read_changes(file: OwnedFd) -> Result<Vec<Change>, KeeperError> {
    let change = |(kind, path): (u8, &[u8])| {
        let kind = match kind {
            b'A' => Kind::Added,
            b'C' => Kind::Changed,
            b'D' => Kind::Removed,
            _ => return None,
        };
        Some(Change { kind, path: OsStr::from_bytes(path).into() })
    };
    entries(file, change)
}

/// Each as one byte for whether it is damage, its text, and the end.
pub(crate) fn write_problems(problems: &[Problem]) -> Result<OwnedFd, KeeperError> {
    file(problems.iter().map(|problem| {
        let kind = if problem.is_damage() { b'!' } else { b'-' };
        [&[kind], problem.to_string().replace('\0', " ").as_bytes(), &[END]].concat()
    }))
}

pub(crate) fn read_findings(file: OwnedFd) -> Result<Vec<Finding>, KeeperError> {
    let finding = |(kind, text): (u8, &[u8])| {
        let text = String::from_utf8_lossy(text).into_owned();
        matches!(kind, b'!' | b'-').then_some(Finding { text, is_damage: kind == b'!' })
    };
    entries(file, finding)
}

fn file(entries: impl Iterator<Item = Vec<u8>>) -> Result<OwnedFd, KeeperError> {
    let write = || -> io::Result<OwnedFd> {
        let mut file = io::BufWriter::new(File::from(rustix::fs::memfd_create("report", rustix::fs::MemfdFlags::CLOEXEC)?));
        for entry in entries {
            file.write_all(&entry)?;
        }
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file.into())
    };
    write().map_err(|error| KeeperError::Refused(format!("keep the answer: {error}")))
}

fn entries<T>(file: OwnedFd, entry: impl Fn((u8, &[u8])) -> Option<T>) -> Result<Vec<T>, KeeperError> {
    let nonsense = || KeeperError::Refused("the keeper's answer is none".to_owned());
    let mut bytes = Vec::new();
    File::from(file).read_to_end(&mut bytes).map_err(|error| KeeperError::Refused(format!("read the answer: {error}")))?;
    let entries = bytes.split(|byte| *byte == END).filter(|entry| !entry.is_empty());
    entries.map(|bytes| bytes.split_first().and_then(|(kind, rest)| entry((*kind, rest))).ok_or_else(nonsense)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_as_they_were_sent() {
        let path = |bytes: &[u8]| OsStr::from_bytes(bytes).into();
        let changes = [
            Change { path: path(b"a"), kind: Kind::Added },
            Change { path: path(b"b\n/\xff"), kind: Kind::Changed },
            Change { path: path(b"c"), kind: Kind::Removed },
        ];
        assert_eq!(read_changes(write_changes(&changes).unwrap()).unwrap(), changes);
        assert_eq!(read_changes(write_changes(&[]).unwrap()).unwrap(), []);
    }
}
