//! Resolves paths inside the sandbox.
//!
//! The resolution walks from directory to directory by descriptors and follows symbolic links itself, because the filter of a
//! sandbox refuses `openat2(2)`. The resolution has three properties. A path cannot lead out of the directory that the caller
//! named, however other processes exchange directories and links meanwhile. The links of `/proc` are read as text, and so lead to
//! no descriptor of this process. No open blocks: only the kind that was requested is opened, and its kind is checked on the
//! descriptor.

use crate::{
    error::{ErrorCode, ToolError},
    limits::MAX_PATH,
    request::ToolCall,
    response::NodeKind,
};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

/// The maximum number of symbolic links in a path, as in the kernel (`man 7 path_resolution`).
const MAX_LINKS: usize = 40;

/// Flags of a directory on the way.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Flags of every file that is opened: the open does not block and makes no terminal the controlling one.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Whether to follow a symbolic link at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastLink {
    /// Resolve the link.
    Follow,
    /// Resolve to the link itself.
    Keep,
}

/// Resolves the paths of a request.
pub(crate) struct Resolver {
    /// The directory that no path leaves, and its path.
    within: Option<(OwnedFd, Vec<u8>)>,
}

/// A name in a directory. There need not be a file of this name.
pub(crate) struct NamedPlace {
    /// The directory.
    pub(crate) directory: OwnedFd,
    /// A plain name, or `.` for the directory itself.
    pub(crate) name: OsString,
}

/// A reason for which a path is not resolved.
enum Unresolved {
    Outside,
    System(Errno),
}

impl From<Errno> for Unresolved {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl Resolver {
    /// Creates the resolver of a call.
    pub(crate) fn new(call: &ToolCall) -> Result<Self, ToolError> {
        let Some(path) = &call.within else { return Ok(Self { within: None }) };
        let place = Self { within: None }.resolve("open", path.as_bytes(), LastLink::Follow)?;
        let directory = openat(&place.directory, &place.name, DIRECTORY, Mode::empty())
            .map_err(|e| ToolError::system("open", path.as_bytes(), e))?;
        Ok(Self { within: Some((directory, path.as_bytes().to_vec())) })
    }

    /// Returns the directory that no path leaves.
    pub(crate) fn boundary(&self) -> Option<&OwnedFd> {
        self.within.as_ref().map(|(directory, _)| directory)
    }

    /// Resolves a path; `what` names the operation for errors. The last component need not exist.
    pub(crate) fn resolve(&self, what: &str, path: &[u8], last: LastLink) -> Result<NamedPlace, ToolError> {
        let invalid = |why| Err(ToolError::at(ErrorCode::Invalid, what, path, why));
        if path.is_empty() {
            return invalid("the path is empty — name a file");
        }
        if path.contains(&0) {
            return invalid("the path contains a NUL byte — remove that byte");
        }
        if path.len() > MAX_PATH {
            return invalid("the path is longer than 4095 bytes — use a shorter one");
        }
        self.walk(path, last).map_err(|refusal| match refusal {
            Unresolved::Outside => ToolError::at(
                ErrorCode::Outside,
                what,
                path,
                "the path, or a symbolic link in it, leads out of the allowed directory — name a path below that directory",
            ),
            Unresolved::System(errno) => ToolError::system(what, path, errno),
        })
    }

    fn walk(&self, path: &[u8], last: LastLink) -> Result<NamedPlace, Unresolved> {
        let mut stack = Vec::new();
        // The components still to resolve, the next one at the end.
        let mut pending = self.begin(path, &mut stack)?;
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    self.up(&mut stack)?;
                    continue;
                }
                _ => {}
            }
            let (directory, name) = (top(&mut stack)?, OsString::from_vec(name));
            // A slash after the last component requires a directory, unless the link itself is wanted.
            let is_last = pending.is_empty() || (last == LastLink::Keep && pending.iter().all(Vec::is_empty));
            if is_last && last == LastLink::Keep {
                return Ok(NamedPlace { directory, name });
            }
            match readlinkat(&directory, &name, Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = target.into_bytes();
                    if target.len() > MAX_PATH {
                        return Err(Errno::NAMETOOLONG.into());
                    }
                    if target.starts_with(b"/") {
                        stack.clear();
                        pending.extend(self.begin(&target, &mut stack)?);
                    } else {
                        stack.push(directory);
                        pending.extend(components(&target));
                    }
                }
                // EINVAL: not a symbolic link (`man 2 readlink`).
                Err(Errno::INVAL | Errno::NOENT) if is_last => return Ok(NamedPlace { directory, name }),
                Err(Errno::INVAL) => {
                    let next = openat(&directory, &name, DIRECTORY, Mode::empty())?;
                    stack.extend([directory, next]);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(NamedPlace { directory: top(&mut stack)?, name: ".".into() })
    }

    /// Puts the directory in which `path` begins on the empty stack. Returns the components of the path from there, in reverse.
    fn begin(&self, path: &[u8], stack: &mut Vec<OwnedFd>) -> Result<Vec<Vec<u8>>, Unresolved> {
        match (&self.within, path.starts_with(b"/")) {
            (None, absolute) => {
                let from = if absolute { "/" } else { "." };
                stack.push(openat(CWD, from, DIRECTORY, Mode::empty())?);
                Ok(components(path))
            }
            (Some((directory, _)), false) => {
                stack.push(directory.try_clone().map_err(|_| Errno::MFILE)?);
                Ok(components(path))
            }
            (Some((directory, base)), true) => {
                let mut rest = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
                for expected in base.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
                    if rest.next() != Some(expected) {
                        return Err(Unresolved::Outside);
                    }
                }
                stack.push(directory.try_clone().map_err(|_| Errno::MFILE)?);
                let slash = path.ends_with(b"/").then(Vec::new);
                let rest: Vec<Vec<u8>> = rest.map(<[u8]>::to_vec).collect();
                Ok(slash.into_iter().chain(rest.into_iter().rev()).collect())
            }
        }
    }

    fn up(&self, stack: &mut Vec<OwnedFd>) -> Result<(), Unresolved> {
        if stack.len() > 1 {
            stack.pop();
        } else if self.within.is_some() {
            return Err(Unresolved::Outside);
        } else {
            let parent = openat(stack.last().ok_or(Errno::NOENT)?, "..", DIRECTORY, Mode::empty())?;
            stack.pop();
            stack.push(parent);
        }
        Ok(())
    }
}

/// Returns the components of a path, the last one first. A trailing slash is an empty component.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn top(stack: &mut Vec<OwnedFd>) -> Result<OwnedFd, Errno> {
    stack.pop().ok_or(Errno::NOENT)
}

impl NamedPlace {
    /// Returns the name as bytes.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Refuses the directory itself, which has no name to create, replace or remove.
    pub(crate) fn require_name(self, what: &str, path: &[u8]) -> Result<Self, ToolError> {
        if self.name() == b"." {
            let why = "the path ends with `/`, `.` or `..` and so names a directory itself — name it from its parent";
            return Err(ToolError::at(ErrorCode::Invalid, what, path, why));
        }
        Ok(self)
    }

    /// Returns the metadata of the file, which may be a link; `None` if there is no file.
    pub(crate) fn stat(&self) -> Result<Option<Stat>, Errno> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens the regular file of this name.
    ///
    /// # Errors
    /// [`ErrorCode::WrongKind`] for any other file, without opening a file of a kind whose open has effects.
    pub(crate) fn open_regular(&self, what: &str, path: &[u8], flags: OFlags) -> Result<(File, Stat), ToolError> {
        let failed = |errno| ToolError::system(what, path, errno);
        let found = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        require_regular(what, path, &found)?;
        let file = openat(&self.directory, &self.name, FILE | flags, Mode::empty()).map_err(failed)?;
        // Another file may have this name by now.
        let stat = fstat(&file).map_err(failed)?;
        require_regular(what, path, &stat)?;
        Ok((File::from(file), stat))
    }

    /// Opens the directory of this name for reading.
    ///
    /// # Errors
    /// [`ErrorCode::WrongKind`] for any other file.
    pub(crate) fn open_directory(&self, what: &str, path: &[u8]) -> Result<OwnedFd, ToolError> {
        open_directory(&self.directory, &self.name).map_err(|errno| ToolError::system(what, path, errno))
    }
}

/// Opens a directory for reading, not a link.
pub(crate) fn open_directory(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, FILE | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a regular file for reading, not a link. Fails with `ENXIO` for any other file.
pub(crate) fn open_file(parent: impl AsFd, name: &OsStr) -> Result<(File, Stat), Errno> {
    let file = openat(parent, name, FILE | OFlags::RDONLY, Mode::empty())?;
    let stat = fstat(&file)?;
    if kind(&stat) == NodeKind::File { Ok((File::from(file), stat)) } else { Err(Errno::NXIO) }
}

/// Returns the kind of a file.
pub(crate) fn kind(stat: &Stat) -> NodeKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        _ => NodeKind::Device,
    }
}

/// Refuses everything but a regular file.
pub(crate) fn require_regular(what: &str, path: &[u8], stat: &Stat) -> Result<(), ToolError> {
    let found = match kind(stat) {
        NodeKind::File => return Ok(()),
        NodeKind::Directory => "a directory",
        NodeKind::Symlink => "a symbolic link",
        NodeKind::Fifo => "a FIFO",
        NodeKind::Socket => "a socket",
        NodeKind::Device | NodeKind::HardLink => "a device",
    };
    Err(ToolError::at(ErrorCode::WrongKind, what, path, &format!("{found} — name a regular file")))
}

/// Returns the size in a file's metadata.
pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Returns the time of the last change of the content, in milliseconds since 1970.
pub(crate) fn modified_ms(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
