//! The directories of a searched tree, kept for the next search.

use super::listing::Stamp;
use std::{ffi::OsStr, ops::Range, os::unix::ffi::OsStrExt as _};

/// The directories that a search has listed, level by level.
#[derive(Debug, Default)]
pub(super) struct SearchedTree {
    pub directories: Vec<Directory>,
    /// The names of all directories, one after another.
    names: Vec<u8>,
    /// The listed names in all directories, each followed by a zero byte.
    listed: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Directory {
    name: Range<u32>,
    pub children: Range<u32>,
    pub is_git: bool,
    pub has_git_file: bool,
    listed: Range<u32>,
    /// `None` if a later search has to list the directory again.
    pub stamp: Option<Stamp>,
}

impl SearchedTree {
    /// Returns whether no search has filled this tree.
    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    pub(super) fn name(&self, directory: usize) -> &OsStr {
        let name = &self.directories[directory].name;
        OsStr::from_bytes(&self.names[name.start as usize..name.end as usize])
    }

    pub(super) fn children(&self, directory: usize) -> Range<usize> {
        let children = &self.directories[directory].children;
        children.start as usize..children.end as usize
    }

    /// Returns the listed names in a directory, each followed by a zero byte.
    pub(super) fn listed(&self, directory: usize) -> &[u8] {
        let listed = &self.directories[directory].listed;
        &self.listed[listed.start as usize..listed.end as usize]
    }

    pub(super) fn set_listed(&mut self, directory: usize, names: &[u8]) {
        let start = index(self.listed.len());
        self.listed.extend_from_slice(names);
        self.directories[directory].listed = start..index(self.listed.len());
    }

    pub(super) fn push(&mut self, name: &OsStr) {
        let start = index(self.names.len());
        self.names.extend_from_slice(name.as_bytes());
        let name = start..index(self.names.len());
        let directory = Directory { name, children: 0..0, is_git: false, has_git_file: false, listed: 0..0, stamp: None };
        self.directories.push(directory);
    }
}

/// Returns a position in a [`SearchedTree`]. The limits and `NAME_MAX` keep positions below 2^32.
pub(super) fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
