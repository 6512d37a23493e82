//! Where groups may be made: the mounts of this machine, this process's place in them, and whether it may write there.

use super::Controller;
use agentd_core::{Layer, LayerError};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

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
        for controller in [Controller::Memory, Controller::Pids, Controller::Cpu, Controller::CpuTime, Controller::Freezer] {
            let found = mounts.iter().find_map(|mount| match mount.version {
                Version::V1 => v1_parent(mount, &places, controller),
                Version::V2 => v2_parent(mount, &places, controller),
            });
            if let Some(parent) = found {
                parents.insert(controller, parent);
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

fn v1_parent(mount: &Mount, places: &str, controller: Controller) -> Option<(Version, PathBuf)> {
    if !mount.options.split(',').any(|o| o == controller.name()) {
        return None;
    }
    let own = own_directory(mount, parse_place(places, controller.name())?);
    [own, mount.point.clone()].into_iter().find(|dir| writable(dir)).map(|dir| (Version::V1, dir))
}

/// On version 2 a group with processes cannot give controllers to its children, so groups are made beside this process's own, in
/// the nearest writable ancestor that gives the controller, or can be made to.
fn v2_parent(mount: &Mount, places: &str, controller: Controller) -> Option<(Version, PathBuf)> {
    let own = own_directory(mount, parse_place(places, "")?);
    own.ancestors()
        .take_while(|dir| dir.starts_with(&mount.point))
        .filter(|dir| writable(dir))
        .find(|dir| gives(dir, controller))
        .map(|dir| (Version::V2, dir.to_path_buf()))
}

fn gives(dir: &Path, controller: Controller) -> bool {
    let file = dir.join("cgroup.subtree_control");
    let listed = || std::fs::read_to_string(&file).is_ok_and(|list| list.split_whitespace().any(|c| c == controller.name()));
    if matches!(controller, Controller::CpuTime | Controller::Freezer) {
        return true;
    }
    // Refused with EBUSY where processes are, unless it is the root.
    listed() || (std::fs::write(&file, format!("+{}", controller.name())).is_ok() && listed())
}
