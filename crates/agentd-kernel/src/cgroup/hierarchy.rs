//! Where groups may be made: the mounts of this machine, this process's place in them, and whether it may write there.

use super::Controller;
use agentd_core::{Layer, LayerError};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const ALL: [Controller; 5] = [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::CpuTime, Controller::Freezer];

/// Those that a group has on version 2 only when its parent gives them.
const GIVEN: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

/// Which interface a directory has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One directory per controller.
    V1,
    /// One directory for all.
    V2,
}

/// The directories under which groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub(super) parents: BTreeMap<Controller, (Version, PathBuf)>,
}

/// One cgroup mount: where, its root inside the hierarchy, and its options.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub point: PathBuf,
    pub root: String,
    pub version: Version,
    pub options: String,
}

/// The cgroup lines of `proc_pid_mountinfo(5)`.
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

/// This process's group in the hierarchy that has `controller`, "" naming version 2 (`proc_pid_cgroup(5)`).
pub(super) fn parse_place<'a>(cgroup: &'a str, controller: &str) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|c| c == controller).then_some(path)
    })
}

impl Hierarchy {
    /// Looks at this machine. Controllers without a writable place are left out.
    pub fn detect() -> Self {
        let mounts = parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let places = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
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

    /// Whether groups with `controller` can be made.
    pub fn has(&self, controller: Controller) -> bool {
        self.parents.contains_key(&controller)
    }

    /// Where groups with `controller` are made.
    pub(super) fn parent(&self, controller: Controller) -> Result<&(Version, PathBuf), LayerError> {
        self.parents.get(&controller).ok_or_else(|| {
            LayerError::new(Layer::Cgroup, format!("find a writable cgroup with the {} controller", controller.name()), None)
                .remedy("run as root, or in a delegated scope (systemd-run --user --scope -p Delegate=yes agentd …), or drop the limit")
        })
    }

    /// A few words for `doctor`.
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

/// The directory of this process's group below a mount, whose own root may be a group itself (in a container).
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

/// On version 2 a process is in one group for all controllers, so all have the same parent: the nearest writable one that gives all
/// that a limit may need, or as many of them as any does.
pub(super) fn v2_parents(mount: &Mount, places: &str) -> Vec<(Controller, PathBuf)> {
    let Some(place) = parse_place(places, "") else { return Vec::new() };
    let own = own_directory(mount, place);
    let above = own.ancestors().take_while(|dir| dir.starts_with(&mount.point)).filter(|dir| writable(dir) && may_give(dir));
    let Some((dir, given)) = most(above.map(|dir| (dir, given(dir)))) else { return Vec::new() };
    // Counting and stopping is what every group can.
    let all = given.into_iter().chain([Controller::CpuTime, Controller::Freezer]);
    all.map(|controller| (controller, dir.to_path_buf())).collect()
}

/// The first of those that give most, looking no further than the first that gives all.
fn most<'a>(candidates: impl Iterator<Item = (&'a Path, Vec<Controller>)>) -> Option<(&'a Path, Vec<Controller>)> {
    let mut best: Option<(&Path, Vec<Controller>)> = None;
    for (dir, given) in candidates {
        let complete = given.len() == GIVEN.len();
        if best.as_ref().is_none_or(|(_, most)| given.len() > most.len()) {
            best = Some((dir, given));
        }
        if complete {
            break;
        }
    }
    best
}

/// Whether a group can have children with controllers: it is the root of all, or has no processes itself. The kernel would give some
/// controllers to the children of another, but as threaded ones, and no process can be put there (`cgroup-v2.rst`, "Threads").
fn may_give(dir: &Path) -> bool {
    let is_root = !dir.join("cgroup.type").exists();
    is_root || std::fs::read(dir.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

/// The controllers that a group gives to its children, or can be made to.
fn given(dir: &Path) -> Vec<Controller> {
    let lists = |file: &str, controller: Controller| {
        std::fs::read_to_string(dir.join(file)).is_ok_and(|list| list.split_whitespace().any(|name| name == controller.name()))
    };
    let gives = |controller: Controller| lists("cgroup.subtree_control", controller);
    let made = |controller: Controller| {
        let word = format!("+{}", controller.name());
        lists("cgroup.controllers", controller)
            && std::fs::write(dir.join("cgroup.subtree_control"), word).is_ok()
            && gives(controller)
    };
    GIVEN.into_iter().filter(|controller| gives(*controller) || made(*controller)).collect()
}
