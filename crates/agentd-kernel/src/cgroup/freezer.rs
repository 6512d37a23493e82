//! Stopping all processes of a sandbox where they are (`cgroup-v1/freezer-subsystem.rst`; `cgroup-v2.rst`, `cgroup.freeze`).
//!
//! A sandbox that is never stopped has no group for it: making one costs time that most would pay for nothing. So its processes are
//! moved into one when they are to be stopped. What they fork is born where they are, so this comes to an end.

use super::{Cgroup, Controller, Hierarchy, group, hierarchy::Version};
use crate::At;
use agentd_core::{Layer, LayerError};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long the kernel may take to stop everything. What cannot be stopped is waiting for a device or a file server.
const PATIENCE: Duration = Duration::from_secs(5);

/// A group whose processes can be stopped.
#[derive(Debug)]
pub struct Freezer {
    version: Version,
    dir: PathBuf,
    /// Whether it was made for this alone.
    own: bool,
}

impl Hierarchy {
    /// A group called `name` to stop a sandbox in; the sandbox's own `group` where that can be stopped.
    pub fn freezer(&self, name: &str, group: Option<&Cgroup>) -> Result<Freezer, LayerError> {
        if let Some(dir) = group.and_then(Cgroup::unified) {
            return Ok(Freezer { version: Version::V2, dir: dir.to_path_buf(), own: false });
        }
        let (version, parent) = self.parent(Controller::Freezer)?;
        let dir = parent.join(name);
        fs::create_dir(&dir).at(Layer::Cgroup, || format!("mkdir {}", dir.display()))?;
        Ok(Freezer { version: *version, dir, own: true })
    }
}

impl Freezer {
    /// Stops all processes that `members` lists, and waits until they stand. When it fails, none of them does.
    pub fn stop(&self, members: impl FnMut() -> Vec<i32>) -> Result<(), LayerError> {
        let stopped = self.gather(members).and_then(|()| self.set(true));
        if stopped.is_err() {
            // The first error is the one to tell.
            self.set(false).ok();
        }
        stopped
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), LayerError> {
        self.set(false)
    }

    /// Moves the processes here, until there is none that was not moved.
    fn gather(&self, mut members: impl FnMut() -> Vec<i32>) -> Result<(), LayerError> {
        if !self.own {
            return Ok(());
        }
        let mut moved = HashSet::new();
        loop {
            let fresh: Vec<i32> = members().into_iter().filter(|pid| moved.insert(*pid)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                match fs::write(self.dir.join("cgroup.procs"), pid.to_string()) {
                    // Gone meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    written => written.at(Layer::Cgroup, || format!("move process {pid} into {}", self.dir.display()))?,
                }
            }
        }
    }

    fn set(&self, frozen: bool) -> Result<(), LayerError> {
        let (file, wanted) = match (self.version, frozen) {
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
        };
        let started = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            // Version 1 wants to be told again while processes are forked.
            fs::write(self.dir.join(file), wanted).at(Layer::Cgroup, || format!("write {wanted} to {file}"))?;
            if self.is(frozen) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(LayerError::new(Layer::Cgroup, format!("wait for {file} to become {wanted}"), Some(libc::ETIMEDOUT)));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn is(&self, frozen: bool) -> bool {
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        match self.version {
            Version::V1 => read("freezer.state").trim() == if frozen { "FROZEN" } else { "THAWED" },
            Version::V2 => super::stats::counter(&read("cgroup.events"), "frozen") == u64::from(frozen),
        }
    }

    /// Removes the group, whose processes are gone.
    pub fn remove(self) -> Result<(), LayerError> {
        if self.own { group::remove(Path::new(&self.dir)) } else { Ok(()) }
    }
}
