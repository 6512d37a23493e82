//! The new directory, which gets its name when everything is in it.

use crate::{
    error::ToolError,
    rename::{DirectoryEntry, rename_without_replacing},
    resolve::{self, LastLink, NamedPlace, Resolver},
    staged::temporary_name,
};
use agentd_disk::erase;
use rustix::{
    fs::{Mode, fchmod, mkdirat},
    io::Errno,
};
use std::{
    ffi::OsString,
    os::fd::{AsFd, OwnedFd},
};

/// The mode of the new directory.
const MODE: Mode = Mode::from_bits_retain(0o755);

/// A temporary directory next to the place of the new one. It is removed when dropped before the end. A process that is killed
/// leaves the directory: its name begins with `.agentd-`.
pub(super) struct StagedDirectory {
    place: NamedPlace,
    name: OsString,
    /// The temporary directory.
    pub(super) root: OwnedFd,
    finished: bool,
}

impl StagedDirectory {
    /// Creates the temporary directory.
    ///
    /// # Errors
    /// Something exists at `path`, also a link that leads nowhere, or the path leads out of the workspace.
    pub(super) fn create(resolver: &Resolver, path: &[u8]) -> Result<Self, ToolError> {
        let failed = |errno| ToolError::system("clone to", path, errno);
        let place = resolver.resolve("clone to", path, LastLink::Keep)?.require_name("clone to", path)?;
        if place.stat().map_err(failed)?.is_some() {
            return Err(failed(Errno::EXIST));
        }
        let name = temporary_name().map_err(failed)?;
        mkdirat(&place.directory, &name, MODE).map_err(failed)?;
        let root = resolve::open_directory(&place.directory, &name).map_err(failed)?;
        Ok(Self { place, name, root, finished: false })
    }

    /// Renames the directory to its final name.
    ///
    /// # Errors
    /// Something exists at `path` by now.
    pub(super) fn finish(mut self, path: &[u8]) -> Result<(), ToolError> {
        let failed = |errno| ToolError::system("clone to", path, errno);
        // The umask may have restricted the mode.
        fchmod(&self.root, MODE).map_err(failed)?;
        let directory = self.place.directory.as_fd();
        let new = DirectoryEntry { directory, name: &self.place.name };
        rename_without_replacing(DirectoryEntry { directory, name: &self.name }, new).map_err(failed)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for StagedDirectory {
    fn drop(&mut self) {
        if !self.finished {
            // The caller gets the error that ended the clone.
            let _ = erase(self.place.directory.as_fd(), &self.name);
        }
    }
}
