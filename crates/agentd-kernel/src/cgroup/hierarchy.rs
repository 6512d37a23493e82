//! Directories in which groups can be created, derived from the cgroup mounts of this host, this process's own groups, and its
//! write access.

use super::Controller;
use crate::text;
use agentd_core::{Control, ControlError};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const ALL: [Controller; 6] =
    [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::CpuTime, Controller::Freezer, Controller::CpuSet];

/// Controllers that a group on version 2 has only if its parent enables them.
const ENABLED_BY_PARENT: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

/// The version of the interface of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One directory per controller.
    V1,
    /// One directory for all controllers.
    V2,
}

/// The directories in which groups are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub(super) parents: BTreeMap<Controller, (Version, PathBuf)>,
}

/// One cgroup mount: its mount point, its root inside the hierarchy, and its options.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub point: PathBuf,
    pub root: String,
    pub version: Version,
    pub options: String,
}

/// Parses the cgroup lines of `proc_pid_mountinfo(5)`.
pub(super) fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let mut filesystem = filesystem.split(' ');
            let version = match filesystem.next()? {
                "cgroup" => Version::V1,
                "cgroup2" => Version::V2,
                _ => return None,
            };
            let options = filesystem.nth(1).unwrap_or("").to_owned();
            Some(Mount { point: PathBuf::from(point), root: root.to_owned(), version, options })
        })
        .collect()
}

/// Returns this process's group in the hierarchy of `controller`; "" stands for version 2 (`proc_pid_cgroup(5)`).
pub(super) fn parse_place<'a>(cgroup: &'a str, controller: &str) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|c| c == controller).then_some(path)
    })
}

impl Hierarchy {
    /// Detects the directories on this host. Omits controllers without a writable directory.
    pub fn detect() -> Self {
        let mounts = parse_mounts(&text::read("/proc/self/mountinfo").unwrap_or_default());
        let places = text::read("/proc/self/cgroup").unwrap_or_default();
        let mut parents = BTreeMap::new();
        for mount in &mounts {
            let found = match mount.version {
                Version::V1 => v1_parents(mount, &places),
                Version::V2 => v2_parents(mount, &places),
            };
            for (controller, dir) in found {
                parents.entry(controller).or_insert((mount.version, dir));
            }
        }
        Self { parents }
    }

    /// Returns true if groups with `controller` can be created.
    pub fn has(&self, controller: Controller) -> bool {
        self.parents.contains_key(&controller)
    }

    /// Returns true if groups with `controller` can be created on version 1.
    pub(super) fn has_v1(&self, controller: Controller) -> bool {
        self.parents.get(&controller).is_some_and(|(version, _)| *version == Version::V1)
    }

    /// Returns the directory in which groups with `controller` are created.
    pub(super) fn parent(&self, controller: Controller) -> Result<&(Version, PathBuf), ControlError> {
        self.parents.get(&controller).ok_or_else(|| {
            ControlError::new(Control::Cgroup, format!("find a writable cgroup with the {} controller", controller.name()), None)
                .remedy(
                    "run as root, or in a delegated scope (systemd-run --user --scope -p Delegate=yes agentd …), \
                     or drop the limit",
                )
        })
    }

    /// Describes the available controllers for `doctor`.
    pub fn describe(&self) -> String {
        if self.parents.is_empty() {
            return "no writable cgroup".to_owned();
        }
        let version = |v: &Version| if *v == Version::V1 { "v1" } else { "v2" };
        self.parents.iter().map(|(c, (v, _))| format!("{} {}", c.name(), version(v))).collect::<Vec<_>>().join(", ")
    }
}

fn writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Returns the directory of this process's group below a mount. In a container, the root of the mount may itself be a group.
fn own_directory(mount: &Mount, place: &str) -> PathBuf {
    let below = place.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or(place);
    mount.point.join(below.trim_start_matches('/'))
}

fn v1_parents(mount: &Mount, places: &str) -> Vec<(Controller, PathBuf)> {
    let here = ALL.into_iter().filter(|controller| mount.options.split(',').any(|o| o == controller.name()));
    let parent = |controller: Controller| {
        let own = own_directory(mount, parse_place(places, controller.name())?);
        [own, mount.point.clone()].into_iter().find(|dir| writable(dir)).map(|dir| (controller, dir))
    };
    here.filter_map(parent).collect()
}

/// Returns the directories on version 2. A process there is in one group for all controllers, so all controllers share one
/// directory. Returns the nearest writable ancestor that offers all controllers of limits, or else the one that offers most of
/// them.
pub(super) fn v2_parents(mount: &Mount, places: &str) -> Vec<(Controller, PathBuf)> {
    let Some(place) = parse_place(places, "") else { return Vec::new() };
    let own = own_directory(mount, place);
    let above =
        own.ancestors().take_while(|dir| dir.starts_with(&mount.point)).filter(|dir| writable(dir) && may_have_children(dir));
    let Some((dir, enabled)) = with_most_controllers(above.map(|dir| (dir, enabled(dir)))) else { return Vec::new() };
    // Every group counts processor time and can be frozen.
    let all = enabled.into_iter().chain([Controller::CpuTime, Controller::Freezer]);
    all.map(|controller| (controller, dir.to_path_buf())).collect()
}

/// Returns the first of the candidates that offer most controllers. Stops at the first candidate that offers all.
fn with_most_controllers<'a>(
    candidates: impl Iterator<Item = (&'a Path, Vec<Controller>)>,
) -> Option<(&'a Path, Vec<Controller>)> {
    let mut best: Option<(&Path, Vec<Controller>)> = None;
    for (dir, enabled) in candidates {
        let complete = enabled.len() == ENABLED_BY_PARENT.len();
        if best.as_ref().is_none_or(|(_, most)| enabled.len() > most.len()) {
            best = Some((dir, enabled));
        }
        if complete {
            break;
        }
    }
    best
}

/// Returns true if processes can be placed in child groups with controllers: the group is the root of the hierarchy, or has no
/// processes itself. In any other group the kernel enables some controllers for threaded children only, which no process can
/// enter (`cgroup-v2.rst`, "Threads").
fn may_have_children(dir: &Path) -> bool {
    let is_root = !dir.join("cgroup.type").exists();
    is_root || std::fs::read(dir.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

/// Returns the controllers that are enabled for the children of a group, after trying to enable the missing ones.
fn enabled(dir: &Path) -> Vec<Controller> {
    let lists = |file: &str, controller: Controller| {
        std::fs::read_to_string(dir.join(file)).is_ok_and(|list| list.split_whitespace().any(|name| name == controller.name()))
    };
    let is_enabled = |controller: Controller| lists("cgroup.subtree_control", controller);
    let enable = |controller: Controller| {
        let word = format!("+{}", controller.name());
        lists("cgroup.controllers", controller)
            && std::fs::write(dir.join("cgroup.subtree_control"), word).is_ok()
            && is_enabled(controller)
    };
    ENABLED_BY_PARENT.into_iter().filter(|controller| is_enabled(*controller) || enable(*controller)).collect()
}
