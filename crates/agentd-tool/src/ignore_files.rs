//! Reads and applies the rules of `.gitignore`, `.ignore` and `.git/info/exclude`. The files are read through descriptors,
//! without following links.

use crate::{limits, resolve};
use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, readlinkat, statat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Ignore files of one directory. A later file wins.
const FILES: [&str; 2] = [".gitignore", ".ignore"];

/// The maximum number of directories above the walked one in which a repository is searched.
const MAX_ABOVE: usize = 64;

/// The rules of one file.
struct Rules {
    /// The path from the file's directory to the walked one, if the walked one is below.
    above: Vec<u8>,
    /// The length of the path from the walked directory to the file's directory, in bytes.
    below: usize,
    rules: Gitignore,
}

/// The rules that apply to a directory and its content. Rules that were added later win.
#[derive(Default)]
pub(crate) struct IgnoreRules {
    stack: Vec<Rules>,
    /// The number of ignore files that could not be read.
    pub(crate) unreadable: u64,
}

impl IgnoreRules {
    /// Returns the rules of the repository that contains `root`, from the directories above it. No directory above `boundary` is
    /// read.
    pub(crate) fn above(root: &OwnedFd, boundary: Option<&OwnedFd>) -> Self {
        let mut rules = Self::default();
        if let Ok(Some(found)) = repository(root, boundary) {
            for (directory, above) in found.iter().rev() {
                rules.add(directory, above, 0);
            }
        }
        rules
    }

    /// Adds the rules of a directory whose path from the walked one has `below` bytes. Returns the number of rules before.
    pub(crate) fn enter(&mut self, directory: &OwnedFd, below: usize) -> usize {
        let before = self.stack.len();
        self.add(directory, &[], below);
        before
    }

    /// Removes the rules that [`IgnoreRules::enter`] added.
    pub(crate) fn leave(&mut self, before: usize) {
        self.stack.truncate(before);
    }

    fn add(&mut self, directory: &OwnedFd, above: &[u8], below: usize) {
        let mut read = |rules: Result<Option<Gitignore>, Errno>| match rules {
            Ok(Some(rules)) => self.stack.push(Rules { above: above.to_vec(), below, rules }),
            Ok(None) => {}
            Err(_) => self.unreadable += 1,
        };
        read(exclude(directory));
        for name in FILES {
            read(parse(directory, OsStr::new(name)));
        }
    }

    /// Returns true if a rule excludes the path, which is relative to the walked directory.
    pub(crate) fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        if path.rsplit(|byte| *byte == b'/').next() == Some(&b".git"[..]) {
            return true;
        }
        for Rules { above, below, rules } in self.stack.iter().rev() {
            let rest = path[*below..].strip_prefix(b"/").unwrap_or(&path[*below..]);
            let candidate = if above.is_empty() { rest.to_vec() } else { [above.as_slice(), b"/", rest].concat() };
            match rules.matched(Path::new(OsStr::from_bytes(&candidate)), is_directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

/// A directory above a root, and the path from the directory to the root.
type Above = (OwnedFd, Vec<u8>);

/// Returns the directories above `root` up to that of the repository, the innermost first.
/// Returns `None` if there is no repository, or if `root` is the top of one.
fn repository(root: &OwnedFd, boundary: Option<&OwnedFd>) -> Result<Option<Vec<Above>>, Errno> {
    let path = readlinkat(CWD, format!("/proc/self/fd/{}", root.as_raw_fd()), Vec::new())?.into_bytes();
    let boundary = boundary.map(fstat).transpose()?;
    let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    let mut found: Vec<Above> = Vec::new();
    for _ in 0..MAX_ABOVE {
        let (directory, above) = found.last().map_or((root, &[][..]), |(directory, above)| (directory, above.as_slice()));
        if statat(directory, ".git", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok((!found.is_empty()).then_some(found));
        }
        let here = fstat(directory)?;
        let is_boundary = boundary.as_ref().is_some_and(|end| (end.st_dev, end.st_ino) == (here.st_dev, here.st_ino));
        let Some(name) = names.pop().filter(|_| !is_boundary) else { return Ok(None) };
        let above = if above.is_empty() { name.to_vec() } else { [name, b"/", above].concat() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(directory, "..", flags, Mode::empty())?;
        found.push((parent, above));
    }
    Ok(None)
}

/// Reads `.git/info/exclude`.
fn exclude(directory: &OwnedFd) -> Result<Option<Gitignore>, Errno> {
    let below = |parent: &OwnedFd, name: &str| match resolve::open_directory(parent, OsStr::new(name)) {
        Ok(directory) => Ok(Some(directory)),
        // In a worktree, `.git` is a file.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    };
    let Some(git) = below(directory, ".git")? else { return Ok(None) };
    match below(&git, "info")? {
        Some(info) => parse(&info, OsStr::new("exclude")),
        None => Ok(None),
    }
}

/// Reads an ignore file; `None` if there is no regular file of this name. Lines that are not valid patterns are skipped, as in
/// git.
fn parse(directory: &OwnedFd, name: &OsStr) -> Result<Option<Gitignore>, Errno> {
    let file = match resolve::open_file(directory, name) {
        Ok((file, _)) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let (mut bytes, max) = (Vec::new(), limits::PATTERN as u64);
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if bytes.len() as u64 > max {
        return Err(Errno::FBIG);
    }
    let mut builder = GitignoreBuilder::new("");
    for line in String::from_utf8_lossy(&bytes).lines() {
        let _ = builder.add_line(None, line);
    }
    Ok(builder.build().ok())
}
