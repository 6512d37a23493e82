//! A created group: its limits, its watches and its removal.

use super::{CgroupPlan, Controller, Hierarchy, Watch, WatchKind, hierarchy::Version};
use crate::{ErrnoContext, mount::clone_tree};
use agentd_core::{Control, ControlError};
use agentd_log::LogFailure as _;
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
};
use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// Returns the mount point of the hierarchy that contains `dir`: the topmost ancestor on the same device.
fn mount_of(dir: &Path) -> Option<PathBuf> {
    let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
    let own = device(dir)?;
    dir.ancestors().take_while(|above| device(above) == Some(own)).last().map(Path::to_path_buf)
}

/// The controllers of version 1 that a JVM looks for. If one of them is missing, it ignores the limits of the others.
const RUNTIME: [Controller; 4] = [Controller::Memory, Controller::Cpu, Controller::CpuTime, Controller::CpuSet];

/// Scheduling period in µs: `cpu.cfs_period_us`, and the second word of `cpu.max`.
const PERIOD_US: u64 = 100_000;

/// A group, with one directory per hierarchy that it is in. Must be removed explicitly.
#[derive(Debug)]
pub struct Cgroup {
    dirs: Vec<(Version, PathBuf)>,
    controllers: Vec<Controller>,
    v2: Option<OwnedFd>,
    join: Vec<OwnedFd>,
}

impl Hierarchy {
    /// Creates a group called `name` with the limits of `plan`. On failure, all directories created so far are removed.
    ///
    /// # Errors
    /// If a controller has no writable directory, or a directory or file of the group cannot be created or written.
    pub fn create(&self, name: &str, plan: &CgroupPlan) -> Result<Cgroup, ControlError> {
        let mut group = Cgroup { dirs: Vec::new(), controllers: plan.controllers(), v2: None, join: Vec::new() };
        let made = group.make(self, name, plan);
        if let Err(error) = made {
            // The creation error is returned; a failed cleanup is only logged. The new directories contain no processes.
            group.remove().or_warn("remove control group", name);
            return Err(error);
        }
        Ok(group)
    }
}

impl Cgroup {
    fn make(&mut self, hierarchy: &Hierarchy, name: &str, plan: &CgroupPlan) -> Result<(), ControlError> {
        for controller in self.controllers.clone() {
            self.enter(hierarchy, name, controller, plan)?;
        }
        if plan.for_runtimes && RUNTIME.iter().all(|controller| hierarchy.has_v1(*controller)) {
            let more = RUNTIME.into_iter().filter(|controller| !self.controllers.contains(controller));
            more.collect::<Vec<_>>().into_iter().for_each(|controller| self.try_enter(hierarchy, name, controller, plan));
        }
        Ok(())
    }

    /// Like [`Self::enter`], for a controller that enforces nothing. On failure, the group has no such controller: the sets of a
    /// sibling may be exclusive (`cpuset.cpu_exclusive`).
    fn try_enter(&mut self, hierarchy: &Hierarchy, name: &str, controller: Controller, plan: &CgroupPlan) {
        let (dirs, join) = (self.dirs.len(), self.join.len());
        let entered = self.enter(hierarchy, name, controller, plan);
        if entered.is_err() {
            for (_, dir) in self.dirs.drain(dirs..) {
                remove(&dir).or_warn("remove control group", dir.display());
            }
            self.join.truncate(join);
        }
        entered.or_debug("create a control group for language runtimes", name);
    }

    /// Creates the group's directory for a controller, unless it exists already, and writes the limits of the controller.
    fn enter(
        &mut self,
        hierarchy: &Hierarchy,
        name: &str,
        controller: Controller,
        plan: &CgroupPlan,
    ) -> Result<(), ControlError> {
        let (version, parent) = hierarchy.parent(controller)?;
        let dir = parent.join(name);
        if !self.dirs.iter().any(|(_, made)| *made == dir) {
            fs::create_dir(&dir).during(Control::Cgroup, || format!("mkdir {}", dir.display()))?;
            self.dirs.push((*version, dir.clone()));
            self.open(*version, &dir)?;
        }
        limit(*version, &dir, controller, plan)
    }

    fn open(&mut self, version: Version, dir: &Path) -> Result<(), ControlError> {
        let (path, flags) = match version {
            Version::V1 => (dir.join("tasks"), OFlags::WRONLY),
            Version::V2 => (dir.to_path_buf(), OFlags::RDONLY | OFlags::DIRECTORY),
        };
        let fd = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
            .during(Control::Cgroup, || format!("open {}", path.display()))?;
        match version {
            Version::V1 => self.join.push(fd),
            Version::V2 => self.v2 = Some(fd),
        }
        Ok(())
    }

    /// Returns the directory for `CLONE_INTO_CGROUP` (`clone(2)`), which exists on version 2 only.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Returns the group's directory on version 2, where one directory serves all controllers.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.dirs.iter().find(|(version, _)| *version == Version::V2).map(|(_, dir)| dir.as_path())
    }

    /// Returns detached trees of the group's directories, each with its mount point in the sandbox. The mount points are those of
    /// the hierarchies, because the sandbox's cgroup namespace shows each directory as the root of its hierarchy
    /// (`cgroup_namespaces(7)`). The caller must attach the trees read-only.
    ///
    /// # Errors
    /// The errno of opening or cloning a directory.
    pub fn trees(&self) -> Result<Vec<(OwnedFd, PathBuf)>, ControlError> {
        self.dirs
            .iter()
            .filter_map(|(_, dir)| Some((dir, mount_of(dir)?)))
            .map(|(dir, place)| Ok((clone_tree(dir)?, place)))
            .collect()
    }

    /// Moves the calling, single-threaded process into the group's version 1 directories. A thread that moves itself through
    /// `tasks` avoids the kernel's global lock, whose writer waits for an RCU grace period (`cgroup_procs_write_start`).
    ///
    /// # Errors
    /// The errno of writing `tasks`.
    pub fn join(&self) -> Result<(), ControlError> {
        for fd in &self.join {
            rustix::io::write(fd, b"0").during(Control::Cgroup, || "join the sandbox's cgroup".to_owned())?;
        }
        Ok(())
    }

    /// Returns descriptors from which another process reads the group's counters and is notified of exceeded limits.
    ///
    /// # Errors
    /// The errno of opening a file of the group, or of registering for out-of-memory events.
    pub fn watches(&self) -> Result<Vec<Watch>, ControlError> {
        let mut watches = Vec::new();
        for controller in &self.controllers {
            let Some((version, dir)) = self.directory(*controller) else { continue };
            let mut add = |kind, file: &str| -> Result<OwnedFd, ControlError> {
                let path = dir.join(file);
                let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .during(Control::Cgroup, || format!("open {}", path.display()))?;
                let copy = fd.try_clone().during(Control::Cgroup, || format!("dup {}", path.display()))?;
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
                    // `memory.peak` exists since Linux 5.19.
                    add(WatchKind::MemoryPeak, "memory.peak").or_debug("open memory.peak (since Linux 5.19)", dir);
                }
                (Controller::Pids, version) => {
                    let has_events = version == Version::V2;
                    add(if has_events { WatchKind::PidsEvents } else { WatchKind::SilentPidsEvents }, "pids.events")?;
                }
                (Controller::CpuTime, Version::V1) => {
                    add(WatchKind::CpuNanoseconds, "cpuacct.usage")?;
                }
                (Controller::CpuTime, Version::V2) => {
                    add(WatchKind::CpuStat, "cpu.stat")?;
                }
                (Controller::Cpu | Controller::Freezer | Controller::CpuSet, _) => {}
            }
        }
        Ok(watches)
    }

    fn directory(&self, controller: Controller) -> Option<(Version, &Path)> {
        // The presence of this file identifies the controller's directory: the first name on version 1, the second on version 2.
        let marker = match controller {
            Controller::Memory => ["memory.limit_in_bytes", "memory.max"],
            Controller::Pids => ["pids.max", "pids.max"],
            Controller::Cpu => ["cpu.shares", "cpu.max"],
            Controller::CpuTime => ["cpuacct.usage", "cpu.stat"],
            Controller::Freezer => ["freezer.state", "cgroup.freeze"],
            Controller::CpuSet => ["cpuset.cpus", "cpuset.cpus"],
        };
        self.dirs
            .iter()
            .find(|(version, dir)| dir.join(marker[usize::from(*version == Version::V2)]).exists())
            .map(|(version, dir)| (*version, dir.as_path()))
    }

    /// Kills all processes in the group.
    pub fn kill(&self) {
        for (_, dir) in &self.dirs {
            kill_all(dir);
        }
    }

    /// Removes the group. Waits up to a second for killed processes to exit.
    ///
    /// # Errors
    /// `EBUSY` if a process is still in the group after that time, or another errno of `rmdir(2)`.
    pub fn remove(&mut self) -> Result<(), ControlError> {
        self.remove_by(remove)
    }

    /// Removes the group without waiting.
    ///
    /// # Errors
    /// `EBUSY` while killed processes are still exiting; in that case, call the method again.
    pub fn try_remove(&mut self) -> Result<(), ControlError> {
        self.remove_by(try_remove)
    }

    fn remove_by(&mut self, remove: fn(&Path) -> Result<(), ControlError>) -> Result<(), ControlError> {
        self.join.clear();
        self.v2 = None;
        while let Some((_, dir)) = self.dirs.last() {
            remove(dir)?;
            self.dirs.pop();
        }
        Ok(())
    }
}

/// Kills the processes of one directory, with `cgroup.kill` where it exists (version 2, since Linux 5.14).
pub(super) fn kill_all(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        // The process may have ended already, which is the intended state.
        rustix::process::kill_process(pid, Signal::KILL).or_debug("kill process of a control group", pid);
    }
}

/// Removes a group's directory. The kernel returns `EBUSY` while the last task is still exiting, and sends no event when the task
/// has exited. On `EBUSY`, the remaining processes of the group are killed again.
pub(super) fn try_remove(dir: &Path) -> Result<(), ControlError> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            if error.raw_os_error() == Some(libc::EBUSY) {
                kill_all(dir);
            }
            Err(error).during(Control::Cgroup, || format!("rmdir {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a group's directory. Waits up to a second for its tasks to exit.
pub(super) fn remove(dir: &Path) -> Result<(), ControlError> {
    let mut pause = Duration::from_micros(50);
    loop {
        match try_remove(dir) {
            Err(error) if error.errno == Some(libc::EBUSY) && pause < Duration::from_millis(500) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            removed => return removed,
        }
    }
}

fn limit(version: Version, dir: &Path, controller: Controller, plan: &CgroupPlan) -> Result<(), ControlError> {
    let set = |file: &str, value: String| {
        fs::write(dir.join(file), &value).during(Control::Cgroup, || format!("write {value} to {file}"))
    };
    match (controller, version) {
        (Controller::Memory, Version::V1) => {
            if let Some(bytes) = plan.memory {
                set("memory.limit_in_bytes", bytes.to_string())?;
                set("memory.swappiness", "0".to_owned())?;
                // Version 1 counts TCP buffers separately.
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
                set("pids.max", (u64::from(count) + u64::from(plan.own_threads)).to_string())?;
            }
        }
        (Controller::CpuSet, Version::V1) => {
            // No process can enter before both sets are written. Without load balancing, writing them does not rebuild the
            // kernel's scheduling domains (`cgroup-v1/cpusets.rst`).
            set("cpuset.sched_load_balance", "0".to_owned())?;
            for name in ["cpus", "mems"] {
                let above = dir.with_file_name(format!("cpuset.effective_{name}"));
                let all = fs::read_to_string(&above).during(Control::Cgroup, || format!("read {}", above.display()))?;
                set(&format!("cpuset.{name}"), all.trim().to_owned())?;
            }
        }
        (Controller::CpuTime | Controller::Freezer | Controller::CpuSet, _) => {}
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
                    // 1024 shares correspond to a weight of 100.
                    set("cpu.shares", (u64::from(weight) * 1024 / 100).max(2).to_string())?;
                } else {
                    set("cpu.weight", weight.to_string())?;
                }
            }
        }
    }
    Ok(())
}

/// Creates an eventfd that the kernel signals when the group is out of memory (`cgroup-v1/memory.rst`, "OOM Control").
fn oom_event(dir: &Path, control: &OwnedFd) -> Result<OwnedFd, ControlError> {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)
        .during(Control::Cgroup, || "create an eventfd for out-of-memory events".to_owned())?;
    fs::write(dir.join("cgroup.event_control"), format!("{} {}", event.as_raw_fd(), control.as_raw_fd()))
        .during(Control::Cgroup, || "register for out-of-memory events".to_owned())?;
    Ok(event)
}
