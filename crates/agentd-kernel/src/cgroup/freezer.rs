//! Freezing all processes of a sandbox (`cgroup-v1/freezer-subsystem.rst`; `cgroup-v2.rst`, `cgroup.freeze`).
//!
//! If the sandbox's own group is on version 2, that group is used. Any other sandbox has no freezer group until it is frozen,
//! because creating one costs time and most sandboxes are never frozen. Its processes are then moved into a new group. Their
//! children start in the group of the parent, so that a few passes of moving are enough.

use super::{Cgroup, Controller, Hierarchy, group, hierarchy::Version};
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// The maximum number of passes that move processes into a group. The launcher does nothing else during the move, so a payload
/// that keeps forking must not be able to prolong the move.
const PASSES: u32 = 32;

/// A group whose processes can be frozen.
#[derive(Debug)]
pub struct Freezer {
    version: Version,
    dir: PathBuf,
    /// True if the group was created for freezing only.
    own: bool,
}

impl Hierarchy {
    /// Returns a freezer for a sandbox. Uses the sandbox's own `group` if that is on version 2, or else creates a group called
    /// `name`.
    ///
    /// # Errors
    /// If no freezer directory is writable, or `mkdir(2)` fails.
    pub fn freezer(&self, name: &str, group: Option<&Cgroup>) -> Result<Freezer, ControlError> {
        if let Some(dir) = group.and_then(Cgroup::unified) {
            return Ok(Freezer { version: Version::V2, dir: dir.to_path_buf(), own: false });
        }
        let (version, parent) = self.parent(Controller::Freezer)?;
        let dir = parent.join(name);
        fs::create_dir(&dir).during(Control::Cgroup, || format!("mkdir {}", dir.display()))?;
        Ok(Freezer { version: *version, dir, own: true })
    }
}

impl Freezer {
    /// Moves the processes that `members` lists into this group, until `members` lists none outside of it. Children of a process
    /// that was moved start in the group.
    ///
    /// # Errors
    /// `ETIMEDOUT` if processes outside of the group fork faster than they are moved; the errno of moving a process, except
    /// `ESRCH`.
    pub fn gather(&self, mut members: impl FnMut() -> Vec<i32>) -> Result<(), ControlError> {
        if !self.own {
            return Ok(());
        }
        let procs = self.dir.join("cgroup.procs");
        // A process that is exiting stays outside, though its move succeeds.
        let mut moved = HashSet::new();
        for _ in 0..PASSES {
            let inside = fs::read_to_string(&procs).during(Control::Cgroup, || format!("read {}", procs.display()))?;
            let inside: HashSet<i32> = inside.lines().filter_map(|line| line.parse().ok()).collect();
            let outside: Vec<i32> = members().into_iter().filter(|pid| !inside.contains(pid) && moved.insert(*pid)).collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match fs::write(&procs, pid.to_string()) {
                    // The process has ended in the meantime.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    written => written.during(Control::Cgroup, || format!("move process {pid} into {}", self.dir.display()))?,
                }
            }
        }
        Err(ControlError::new(Control::Cgroup, "move all processes of the sandbox into its freezer group", Some(libc::ETIMEDOUT)))
    }

    /// Asks the kernel to freeze or thaw the group's processes. Returns true if the group is in the requested state. Freezing may
    /// take a moment, and version 1 needs repeated requests while processes fork: call this until it returns true.
    ///
    /// # Errors
    /// The errno of writing the state file.
    pub fn set(&self, frozen: bool) -> Result<bool, ControlError> {
        let (file, wanted) = match (self.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        fs::write(self.dir.join(file), wanted).during(Control::Cgroup, || format!("write {wanted} to {file}"))?;
        Ok(self.is(frozen))
    }

    fn is(&self, frozen: bool) -> bool {
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        match self.version {
            Version::V1 => read("freezer.state").trim() == if frozen { "FROZEN" } else { "THAWED" },
            Version::V2 => super::stats::counter(&read("cgroup.events"), "frozen") == u64::from(frozen),
        }
    }

    /// Removes the group, all processes of which must have been killed.
    ///
    /// # Errors
    /// `EBUSY` while the last process is still exiting; in that case, call the method again.
    pub fn try_remove(&self) -> Result<(), ControlError> {
        if self.own { group::try_remove(Path::new(&self.dir)) } else { Ok(()) }
    }
}
