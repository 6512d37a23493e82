//! One made group.

use super::{CgroupPlan, Controller, Hierarchy, Watch, WatchKind, hierarchy::Version};
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
};
use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// `cpu.cfs_period_us` and the second word of `cpu.max`.
const PERIOD_US: u64 = 100_000;

/// A group; one directory per hierarchy it is in.
#[derive(Debug)]
pub struct Cgroup {
    dirs: Vec<(Version, PathBuf)>,
    controllers: Vec<Controller>,
    v2: Option<OwnedFd>,
    join: Vec<OwnedFd>,
}

impl Hierarchy {
    /// Makes a group called `name` with the limits of `plan`. When anything fails, nothing is left of it.
    pub fn create(&self, name: &str, plan: &CgroupPlan) -> Result<Cgroup, LayerError> {
        let mut group = Cgroup { dirs: Vec::new(), controllers: plan.controllers(), v2: None, join: Vec::new() };
        let made = group.make(self, name, plan);
        if let Err(error) = made {
            // The first error is the one to tell; directories just made are empty.
            group.remove().ok();
            return Err(error);
        }
        Ok(group)
    }
}

impl Cgroup {
    fn make(&mut self, hierarchy: &Hierarchy, name: &str, plan: &CgroupPlan) -> Result<(), LayerError> {
        for controller in self.controllers.clone() {
            let (version, parent) = hierarchy.parent(controller)?;
            let dir = parent.join(name);
            if !self.dirs.iter().any(|(_, made)| *made == dir) {
                fs::create_dir(&dir).at(Layer::Cgroup, || format!("mkdir {}", dir.display()))?;
                self.dirs.push((*version, dir.clone()));
                self.open(*version, &dir)?;
            }
            limit(*version, &dir, controller, plan)?;
        }
        Ok(())
    }

    fn open(&mut self, version: Version, dir: &Path) -> Result<(), LayerError> {
        let (path, flags) = match version {
            Version::V1 => (dir.join("tasks"), OFlags::WRONLY),
            Version::V2 => (dir.to_path_buf(), OFlags::RDONLY | OFlags::DIRECTORY),
        };
        let fd = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
            .at(Layer::Cgroup, || format!("open {}", path.display()))?;
        match version {
            Version::V1 => self.join.push(fd),
            Version::V2 => self.v2 = Some(fd),
        }
        Ok(())
    }

    /// The directory for `CLONE_INTO_CGROUP` (`clone(2)`), on version 2.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Its directory on version 2, where one directory is in all controllers.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.dirs.iter().find(|(version, _)| *version == Version::V2).map(|(_, dir)| dir.as_path())
    }

    /// Moves the calling (single-threaded) process into the group's version 1 directories. A thread that moves itself through
    /// `tasks` is spared the kernel's global lock, whose writer waits for an RCU grace period (`cgroup_procs_write_start`).
    pub fn join(&self) -> Result<(), LayerError> {
        for fd in &self.join {
            rustix::io::write(fd, b"0").at(Layer::Cgroup, || "join the sandbox's cgroup".to_owned())?;
        }
        Ok(())
    }

    /// Descriptors from which another process reads the group's counters and hears of its limits.
    pub fn watches(&self) -> Result<Vec<Watch>, LayerError> {
        let mut watches = Vec::new();
        for controller in &self.controllers {
            let Some((version, dir)) = self.directory(*controller) else { continue };
            let mut add = |kind, file: &str| -> Result<OwnedFd, LayerError> {
                let path = dir.join(file);
                let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .at(Layer::Cgroup, || format!("open {}", path.display()))?;
                let copy = fd.try_clone().at(Layer::Cgroup, || "dup".to_owned())?;
                watches.push(Watch { kind, fd });
                Ok(copy)
            };
            match (controller, version) {
                (Controller::Memory, Version::V1) => {
                    let control = add(WatchKind::OomControl, "memory.oom_control")?;
                    add(WatchKind::MemoryPeak, "memory.max_usage_in_bytes")?;
                    watches.push(Watch { kind: WatchKind::OomEvent, fd: oom_event(dir, &control)? });
                }
                (Controller::Memory, Version::V2) => {
                    add(WatchKind::MemoryEvents, "memory.events")?;
                    // Linux 5.19 and later.
                    add(WatchKind::MemoryPeak, "memory.peak").ok();
                }
                (Controller::Pids, version) => {
                    let told = version == Version::V2;
                    add(if told { WatchKind::PidsEvents } else { WatchKind::SilentPidsEvents }, "pids.events")?;
                }
                (Controller::CpuTime, Version::V1) => {
                    add(WatchKind::CpuNanoseconds, "cpuacct.usage")?;
                }
                (Controller::CpuTime, Version::V2) => {
                    add(WatchKind::CpuStat, "cpu.stat")?;
                }
                (Controller::Cpu | Controller::Freezer, _) => {}
            }
        }
        Ok(watches)
    }

    fn directory(&self, controller: Controller) -> Option<(Version, &Path)> {
        // The file tells which directory is the controller's: its name on version 1, and on version 2.
        let marker = match controller {
            Controller::Memory => ["memory.limit_in_bytes", "memory.max"],
            Controller::Pids => ["pids.max", "pids.max"],
            Controller::Cpu => ["cpu.shares", "cpu.max"],
            Controller::CpuTime => ["cpuacct.usage", "cpu.stat"],
            Controller::Freezer => ["freezer.state", "cgroup.freeze"],
        };
        self.dirs
            .iter()
            .find(|(version, dir)| dir.join(marker[usize::from(*version == Version::V2)]).exists())
            .map(|(version, dir)| (*version, dir.as_path()))
    }

    /// Kills everything in it.
    pub fn kill(&self) {
        for (_, dir) in &self.dirs {
            kill_all(dir);
        }
    }

    /// Removes it. Processes that were killed but are not yet gone keep it busy for a moment.
    pub fn remove(&mut self) -> Result<(), LayerError> {
        self.join.clear();
        self.v2 = None;
        while let Some((_, dir)) = self.dirs.pop() {
            remove(&dir)?;
        }
        Ok(())
    }
}

/// Kills the processes of one directory, by `cgroup.kill` where there is one (Linux 5.14, version 2).
pub(super) fn kill_all(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        // It may be gone already, which is what is wanted.
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
}

/// `rmdir(2)` with patience: the kernel answers EBUSY while the last task is still exiting, and tells nobody when it is done.
pub(super) fn remove(dir: &Path) -> Result<(), LayerError> {
    let mut pause = Duration::from_micros(50);
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && pause < Duration::from_millis(500) => {
                kill_all(dir);
                std::thread::sleep(pause);
                pause *= 2;
            }
            Err(error) => return Err(error).at(Layer::Cgroup, || format!("rmdir {}", dir.display())),
        }
    }
}

fn limit(version: Version, dir: &Path, controller: Controller, plan: &CgroupPlan) -> Result<(), LayerError> {
    let set =
        |file: &str, value: String| fs::write(dir.join(file), &value).at(Layer::Cgroup, || format!("write {value} to {file}"));
    match (controller, version) {
        (Controller::Memory, Version::V1) => {
            if let Some(bytes) = plan.memory {
                set("memory.limit_in_bytes", bytes.to_string())?;
                set("memory.swappiness", "0".to_owned())?;
                // Buffers of TCP are counted apart on version 1.
                if dir.join("memory.kmem.tcp.limit_in_bytes").exists() {
                    set("memory.kmem.tcp.limit_in_bytes", bytes.to_string())?;
                }
                if dir.join("memory.memsw.limit_in_bytes").exists() {
                    set("memory.memsw.limit_in_bytes", bytes.to_string())?;
                }
            }
        }
        (Controller::Memory, Version::V2) => {
            if let Some(bytes) = plan.memory {
                set("memory.max", bytes.to_string())?;
                if dir.join("memory.swap.max").exists() {
                    set("memory.swap.max", "0".to_owned())?;
                }
            }
        }
        (Controller::Pids, _) => {
            if let Some(count) = plan.processes {
                // One more for the supervisor.
                set("pids.max", (u64::from(count) + 1).to_string())?;
            }
        }
        (Controller::CpuTime | Controller::Freezer, _) => {}
        (Controller::Cpu, version) => {
            if let Some(quota) = plan.cpu_quota {
                let us = u64::from(quota.0) * PERIOD_US / 1000;
                if version == Version::V1 {
                    set("cpu.cfs_period_us", PERIOD_US.to_string())?;
                    set("cpu.cfs_quota_us", us.to_string())?;
                } else {
                    set("cpu.max", format!("{us} {PERIOD_US}"))?;
                }
            }
            if let Some(weight) = plan.cpu_weight {
                if version == Version::V1 {
                    // 1024 shares are what a weight of 100 is.
                    set("cpu.shares", (u64::from(weight) * 1024 / 100).max(2).to_string())?;
                } else {
                    set("cpu.weight", weight.to_string())?;
                }
            }
        }
    }
    Ok(())
}

/// An eventfd that the kernel signals when the group is out of memory (`cgroup-v1/memory.rst`, "OOM Control").
fn oom_event(dir: &Path, control: &OwnedFd) -> Result<OwnedFd, LayerError> {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)
        .at(Layer::Cgroup, || "eventfd".to_owned())?;
    fs::write(dir.join("cgroup.event_control"), format!("{} {}", event.as_raw_fd(), control.as_raw_fd()))
        .at(Layer::Cgroup, || "register for out-of-memory events".to_owned())?;
    Ok(event)
}
