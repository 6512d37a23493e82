//! Roots of sandboxes (`pivot_root(2)`). A root consists of image layers under a writable layer, of a directory, or of a
//! read-only view of the host's programs in an otherwise empty root. No other part of the host's tree remains visible, except
//! grants.
//!
//! All private writable data is on one tmpfs, except changes on disk ([`Upper`]). The tmpfs is mounted over the host's `/proc`
//! while the root is built. The host's `/proc` must stay in this mount namespace, though covered: the kernel allows a new `/proc`
//! only then (`mount_too_revealing`).

use super::{
    GrantPlan, OwnTrees,
    copy_on_write::{self, Uppers},
    dev,
    device::Devices,
    etc::{self, HostEtc},
    names::{self, NamesPlan},
    place::Places,
    proc,
    scratch::Scratch,
    tree,
    trust::{self, TrustPlan},
};
use crate::{ErrnoContext, volume::Volume};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The plan of a sandbox's own root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// The layers or the directory that the root is based on.
    pub base: Base,
    /// Directories and files of the host that are shown read-only, at the same path.
    #[serde(with = "crate::path_bytes::many")]
    pub system: Vec<PathBuf>,
    /// The way in which the root gets the host's `/etc`; `None` for a root with its own `/etc`.
    pub etc: Option<HostEtc>,
    /// Account, host name and resolver of the payload; `None` for a root whose name files were written before.
    pub names: Option<NamesPlan>,
    /// The trust stores of the payload, if its TLS is inspected.
    pub trust: Option<TrustPlan>,
    /// Symbolic links to create: path and target.
    #[serde(with = "crate::path_bytes::pairs")]
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The home directory, created if the image has none.
    #[serde(with = "crate::path_bytes::one")]
    pub home: PathBuf,
    /// Grants, parents before children.
    pub grants: Vec<GrantPlan>,
    /// Character devices of the host that are shown in `/dev` under their own names, in addition to the harmless nodes.
    #[serde(with = "crate::path_bytes::many")]
    pub devices: Vec<PathBuf>,
    /// Size limit of all data written in memory, in bytes.
    pub scratch_bytes: u64,
}

/// The base of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Layers under a writable layer.
    Stack {
        /// Read-only layers, the lowest first: layers of an image, and committed changes.
        #[serde(with = "crate::path_bytes::many")]
        layers: Vec<PathBuf>,
        /// Place of the changes on disk. Without it, changes are in memory.
        upper: Option<Upper>,
    },
    /// A directory without the mounts below it, which the sandbox changes directly. For machines, whose root belongs to the
    /// sandbox.
    Directory(#[serde(with = "crate::path_bytes::one")] PathBuf),
}

/// Place of the changes to a root on disk. It contains the directories `tree` (upperdir) and `work` (workdir of overlayfs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upper {
    /// A directory that contains `tree` and `work`.
    Directory(#[serde(with = "crate::path_bytes::one")] PathBuf),
    /// A new volume of so many bytes, deleted with the sandbox.
    Volume(u64),
}

impl Base {
    /// Returns the number of trees of the base: the layers and the upper, or the directory.
    pub fn trees(&self) -> usize {
        match self {
            Self::Stack { layers, upper } => layers.len() + usize::from(upper.is_some()),
            Self::Directory(_) => 1,
        }
    }
}

impl RootPlan {
    /// Describes the root for reports.
    pub fn describe(&self) -> String {
        match &self.base {
            Base::Stack { layers, .. } => format!("private root, {} layers, {} grants", layers.len(), self.grants.len()),
            Base::Directory(_) => format!("private root, a directory, {} grants", self.grants.len()),
        }
    }
}

/// Returns the detached trees of a plan's base: the layers, the lowest first, then the upper; or the directory. The view of this
/// process must still be the host's.
///
/// # Errors
/// The errno of cloning a tree, or the error of creating a volume.
pub fn clone_stack(plan: &RootPlan) -> Result<Vec<OwnedFd>, ControlError> {
    let (layers, upper) = match &plan.base {
        Base::Stack { layers, upper } => (layers, upper),
        Base::Directory(path) => return Ok(vec![tree::clone_own(path)?]),
    };
    let mut stack = super::clone_trees(layers)?;
    match upper {
        None => {}
        Some(Upper::Directory(upper)) => stack.push(tree::clone_tree(upper)?),
        Some(Upper::Volume(bytes)) => stack.push(Volume::for_changes(*bytes)?),
    }
    Ok(stack)
}

/// Directories that every root has, with their modes.
const DIRECTORIES: [(&str, u32); 5] = [("dev", 0o755), ("proc", 0o555), ("tmp", 0o1777), ("var/tmp", 0o1777), ("run", 0o755)];

/// A root that is complete except for its grants.
pub struct Root<'a> {
    plan: &'a RootPlan,
    path: PathBuf,
    root: OwnedFd,
    /// Directory for the changes to copy-on-write grants; `None` without such grants.
    uppers: Option<Uppers>,
    /// Notes for the report, collected so far.
    notes: Vec<String>,
}

/// Builds the root in this process's new mount namespace, where the process must be root. `stack` must come from [`clone_stack`].
/// `devices` are the devices of the plan, and `own` the trees of the sandbox's control groups.
///
/// # Errors
/// The error of the first step that fails. After an error, the root is incomplete.
pub fn build(plan: &RootPlan, stack: Vec<OwnedFd>, devices: Option<Devices>, own: OwnTrees) -> Result<Root<'_>, ControlError> {
    let umask = rustix::process::umask(Mode::empty());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during(Control::Mounts, || "make the mounts below / private".to_owned())?;
    // Clones the trees before anything covers the host's tree.
    let nodes = dev::clone_nodes()?;
    let system = plan.system.iter().map(|path| tree::clone_own_all(path)).collect::<Result<Vec<_>, _>>()?;
    let scratch = Scratch::mount(plan.scratch_bytes)?;
    let path = scratch.directory("root", 0o755)?;
    match (&plan.base, stack.first()) {
        (Base::Directory(of), Some(tree)) => {
            tree::restrict(tree, tree::SHOWN, of)?;
            tree::attach_own(tree, &path)?;
        }
        (Base::Stack { layers, .. }, Some(_)) => {
            let (layers, upper) = stack.split_at(layers.len().min(stack.len()));
            overlay(&scratch, layers, upper.first(), &path)?;
        }
        (_, None) => tree::show(&path, &path)?,
    }
    let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(Control::Mounts, || "open the new root".to_owned())?;
    let places = if stack.is_empty() { Places::Fresh(&root) } else { Places::Filled(&root) };
    for (name, mode) in DIRECTORIES {
        places.directory(Path::new(name), Mode::from(mode))?;
    }
    // On some hosts `/home` is a link, to `/var/home`. The private home may be below it.
    let homes = Path::new("/home");
    if plan.home.starts_with(homes) || !plan.links.iter().any(|(place, _)| place == homes) {
        places.directory(homes, Mode::from(0o755))?;
    }
    places.directory(&plan.home, Mode::from(0o700))?;
    for (path, tree) in plan.system.iter().zip(system) {
        places.attach(&tree, path, tree::READ_ONLY)?;
    }
    let mut notes = Vec::new();
    configure(plan, &scratch, (&path, &root), &mut notes)?;
    for (place, target) in &plan.links {
        // An existing file was created at the first start of this root. Since then, it belongs to the sandbox.
        places.link(place, target)?;
    }
    for (tree, place) in own {
        places.attach(&tree, &place, super::SHOWN_OF_THE_KERNEL)?;
    }
    let dev = scratch.directory("dev", 0o755)?;
    dev::populate(&dev)?;
    tree::show(&dev, &path.join("dev"))?;
    dev::attach_mounts(&path.join("dev"), nodes, &scratch)?;
    if let Some(devices) = devices {
        devices.show(&plan.devices, &path.join("dev"), &scratch.directory("devices", 0o700)?)?;
    }
    plan.trust.as_ref().map_or(Ok(()), |trust| trust::show_in(trust, &scratch, (&path, &root)))?;
    proc::apply(&path.join("proc"), &mut notes)?;
    proc::protect(&path.join("proc"))?;
    let uppers = Uppers::prepare(&scratch, &plan.grants)?;
    rustix::process::umask(umask);
    Ok(Root { plan, path, root, uppers, notes })
}

/// Sets up `/etc` of the root: an overlay or a copy of the host's `/etc` if planned, and the sandbox's name files.
fn configure(
    plan: &RootPlan,
    scratch: &Scratch,
    (path, root): (&Path, &OwnedFd),
    notes: &mut Vec<String>,
) -> Result<(), ControlError> {
    if let Some(HostEtc::Overlay { hide }) = plan.etc {
        Places::Filled(root).directory(Path::new("etc"), Mode::from(0o755))?;
        if etc::overlay(scratch, path, (plan.names.as_ref(), hide), notes)? {
            return Ok(());
        }
    }
    if plan.etc.is_some() {
        etc::copy(root, notes)?;
    }
    plan.names.as_ref().map_or(Ok(()), |names| names::write(names, root, notes))
}

impl Root<'_> {
    /// Attaches the grants' trees and makes this the root of the process (`pivot_root(2)`). Returns the notes for the report.
    ///
    /// # Errors
    /// The error of the first step that fails.
    pub fn enter(self, trees: Vec<OwnedFd>) -> Result<Vec<String>, ControlError> {
        let mut notes = self.notes;
        for (index, (grant, tree)) in self.plan.grants.iter().zip(trees).enumerate() {
            let Some(tree) = copy_on_write::layered(self.uppers.as_ref(), (index, grant), tree, &mut notes)? else { continue };
            super::pin_between(&self.path, &self.plan.grants[..index], grant)?;
            // The root contains links by now, whatever its base is.
            Places::Filled(&self.root).attach(&tree, &grant.target, tree::attributes(grant.access))?;
        }
        rustix::process::chdir(&self.path).during(Control::Mounts, || "chdir to the new root".to_owned())?;
        // With "." for both arguments, the old root is stacked on the new one and is unmounted from there (`pivot_root(2)`).
        rustix::process::pivot_root(".", ".").during(Control::Mounts, || "pivot_root".to_owned())?;
        unmount(".", UnmountFlags::DETACH).during(Control::Mounts, || "unmount the old root".to_owned())?;
        rustix::process::chdir("/").during(Control::Mounts, || "chdir /".to_owned())?;
        for grant in &self.plan.grants {
            for relative in &grant.protect {
                tree::protect(&grant.target, relative, &mut notes)?;
            }
        }
        Ok(notes)
    }
}

/// Mounts an overlay of `layers`, the lowest first, under a writable layer: `upper`, or a part of the scratch file system
/// (`Documentation/filesystems/overlayfs.rst`). Layers are attached at short relative paths, because all paths must fit into one
/// page.
///
/// The option `volatile` skips all syncs of the upper layer: the kernel writes the data back at its usual time. Without it, the
/// end of every sandbox and every snapshot would wait until all dirty data is on the disk.
fn overlay(scratch: &Scratch, layers: &[OwnedFd], upper: Option<&OwnedFd>, place: &Path) -> Result<(), ControlError> {
    for (number, layer) in layers.iter().enumerate() {
        let at = scratch.directory(&format!("l{number}"), 0o700)?;
        tree::restrict(layer, tree::READ_ONLY, &at)?;
        tree::attach_own(layer, &at)?;
    }
    let at = scratch.directory("top", 0o700)?;
    if let Some(upper) = upper {
        tree::restrict(upper, tree::SHOWN, &at)?;
        tree::attach_own(upper, &at)?;
    } else {
        scratch.directory("top/tree", 0o755)?;
        scratch.directory("top/work", 0o755)?;
    }
    let mut lower: Vec<String> = (0..layers.len()).rev().map(|number| format!("l{number}")).collect();
    if lower.is_empty() {
        // overlayfs needs at least one lower layer.
        scratch.directory("none", 0o755)?;
        lower.push("none".to_owned());
    }
    let options = format!("lowerdir={},upperdir=top/tree,workdir=top/work,userxattr,volatile", lower.join(":"));
    let options = CString::new(options)
        .map_err(|_| ControlError::new(Control::Mounts, "set the options of the overlay", Some(libc::EINVAL)))?;
    let parent = place.parent().unwrap_or(place);
    rustix::process::chdir(parent).during(Control::Mounts, || "chdir to the scratch file system".to_owned())?;
    mount("overlay", place, "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .during(Control::Mounts, || format!("mount an overlay of {} layers", layers.len()))
        .map_err(|error| match error.errno {
            Some(libc::ENOSPC) => {
                error.remedy("free some space on the disk that holds the sandbox's changes, or restore a snapshot")
            }
            _ => error.remedy("boot Linux 5.19 or later: overlayfs in a user namespace needs 5.11, with id-mapped layers 5.19"),
        })
}
