//! A root of a sandbox's own (`pivot_root(2)`): layers of an image under a writable one, or a read-only view of the host's programs in an
//! otherwise empty root. Nothing of the host's tree remains but what is granted.
//!
//! Everything writable is one tmpfs, mounted where the host's `/proc` is while the root is built: the kernel allows a new `/proc` only as
//! long as the host's is in this namespace, though covered (`mount_too_revealing`).

use super::{GrantPlan, dev, device::Devices, place::Places, proc, scratch::Scratch, tree};
use crate::{At, volume::Volume};
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The root of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// What it is made of.
    pub base: Base,
    /// Directories and files of the host that are shown read-only, at the same place.
    #[serde(with = "crate::path_bytes::many")]
    pub system: Vec<PathBuf>,
    /// Files that are made: place and content.
    pub files: Vec<(PathBuf, String)>,
    /// Symbolic links that are made: place and target.
    #[serde(with = "crate::path_bytes::pairs")]
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The home directory, made where the image has none.
    #[serde(with = "crate::path_bytes::one")]
    pub home: PathBuf,
    /// Grants, parents before children.
    pub grants: Vec<GrantPlan>,
    /// Character devices of the host's that are shown in `/dev`, by their own names, beside the harmless ones.
    #[serde(with = "crate::path_bytes::many")]
    pub devices: Vec<PathBuf>,
    /// Size limit of all that is written, bytes.
    pub scratch_bytes: u64,
}

/// What a root is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Layers under a writable one.
    Stack {
        /// Layers that are not changed, the lowest first: of an image, and of changes that were made before.
        #[serde(with = "crate::path_bytes::many")]
        layers: Vec<PathBuf>,
        /// Where changes go on disk. Without it they are in memory.
        top: Option<Top>,
    },
    /// A directory as it is, without what is mounted below it: what the sandbox changes is changed there. In a virtual machine, whose root
    /// is the sandbox's own already.
    Directory(#[serde(with = "crate::path_bytes::one")] PathBuf),
}

/// Where the changes of a root go on disk: `tree` takes them, and `work` beside it is overlayfs's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Top {
    /// A directory in which these two are.
    Directory(#[serde(with = "crate::path_bytes::one")] PathBuf),
    /// A file system of its own of so many bytes, which goes with the sandbox.
    Volume(u64),
}

impl Base {
    /// How many trees it is made of: those of its layers, and that of its top.
    pub fn trees(&self) -> usize {
        match self {
            Self::Stack { layers, top } => layers.len() + usize::from(top.is_some()),
            Self::Directory(_) => 1,
        }
    }
}

impl RootPlan {
    /// What it is, in a few words.
    pub fn describe(&self) -> String {
        match &self.base {
            Base::Stack { layers, .. } => format!("own root, {} layers, {} grants", layers.len(), self.grants.len()),
            Base::Directory(_) => format!("own root, a directory, {} grants", self.grants.len()),
        }
    }
}

/// Detached trees of a plan's layers, the lowest first, and of its top, or of its directory, from this process's view, which must still
/// be the host's.
pub fn clone_stack(plan: &RootPlan) -> Result<Vec<OwnedFd>, LayerError> {
    let (layers, top) = match &plan.base {
        Base::Stack { layers, top } => (layers, top),
        Base::Directory(path) => return Ok(vec![tree::clone_own(path)?]),
    };
    let mut stack = super::clone_trees(layers)?;
    match top {
        None => {}
        Some(Top::Directory(top)) => stack.push(tree::clone_tree(top)?),
        Some(Top::Volume(bytes)) => stack.push(Volume::for_changes(*bytes)?),
    }
    Ok(stack)
}

/// Directories that every root has.
const DIRECTORIES: [(&str, u32); 6] =
    [("dev", 0o755), ("proc", 0o555), ("tmp", 0o1777), ("var/tmp", 0o1777), ("run", 0o755), ("home", 0o755)];

/// A root that is built but for its grants.
pub struct Root<'a> {
    plan: &'a RootPlan,
    path: PathBuf,
    root: OwnedFd,
}

/// Builds the root in this process's (new) mount namespace, in which it is root. `stack` has the detached trees of its layers, the lowest
/// first, and of its top, or that of its directory; `devices` are those of the plan.
pub fn build(plan: &RootPlan, stack: Vec<OwnedFd>, devices: Option<Devices>) -> Result<Root<'_>, LayerError> {
    let umask = rustix::process::umask(Mode::empty());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at(Layer::Mounts, || "make / private".to_owned())?;
    // While the host's tree is whole.
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
            let (layers, top) = stack.split_at(layers.len().min(stack.len()));
            overlay(&scratch, layers, top.first(), &path)?;
        }
        (_, None) => tree::show(&path, &path)?,
    }
    let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Mounts, || "open the new root".to_owned())?;
    let places = if stack.is_empty() { Places::Fresh(&root) } else { Places::Filled(&root) };
    for (name, mode) in DIRECTORIES {
        places.directory(Path::new(name), Mode::from(mode))?;
    }
    places.directory(&plan.home, Mode::from(0o700))?;
    for (path, tree) in plan.system.iter().zip(system) {
        places.attach(&tree, path, tree::READ_ONLY)?;
    }
    for (name, content) in &plan.files {
        places.file(name, content)?;
    }
    for (name, target) in &plan.links {
        let name = name.strip_prefix("/").unwrap_or(name);
        match rustix::fs::symlinkat(target, &root, name) {
            // It was made when the root was made first; what it has become since is the sandbox's own matter.
            Err(Errno::EXIST) => {}
            made => made.at(Layer::Mounts, || format!("symlink /{}", name.display()))?,
        }
    }
    let dev = scratch.directory("dev", 0o755)?;
    dev::populate(&dev)?;
    tree::show(&dev, &path.join("dev"))?;
    dev::furnish(&path.join("dev"), nodes, &scratch)?;
    if let Some(devices) = devices {
        devices.show(&plan.devices, &path.join("dev"), &scratch.directory("devices", 0o700)?)?;
    }
    proc::apply(&path.join("proc"))?;
    proc::protect(&path.join("proc"))?;
    rustix::process::umask(umask);
    Ok(Root { plan, path, root })
}

impl Root<'_> {
    /// Attaches the grants' trees and makes the root this process's. Returns what was noteworthy.
    pub fn enter(self, trees: Vec<OwnedFd>) -> Result<Vec<String>, LayerError> {
        let mut notes = Vec::new();
        for (index, (grant, tree)) in self.plan.grants.iter().zip(trees).enumerate() {
            super::pin_between(&self.path, &self.plan.grants[..index], grant)?;
            // There are links by now, in whatever it is made of.
            Places::Filled(&self.root).attach(&tree, &grant.target, tree::attributes(grant.access))?;
        }
        rustix::process::chdir(&self.path).at(Layer::Mounts, || "chdir to the new root".to_owned())?;
        // With both places the same, the old root comes to lie over the new one, and is taken away from there (`pivot_root(2)`).
        rustix::process::pivot_root(".", ".").at(Layer::Mounts, || "pivot_root".to_owned())?;
        unmount(".", UnmountFlags::DETACH).at(Layer::Mounts, || "unmount the old root".to_owned())?;
        rustix::process::chdir("/").at(Layer::Mounts, || "chdir /".to_owned())?;
        for grant in &self.plan.grants {
            for relative in &grant.protect {
                tree::protect(&grant.target, relative, &mut notes)?;
            }
        }
        Ok(notes)
    }
}

/// Mounts an overlay of `layers`, the lowest first, under a writable one: `top`, or a part of the scratch file system
/// (`Documentation/filesystems/overlayfs.rst`). Layers lie at short relative paths, because all of them must fit into one page.
///
/// `volatile`: what is written reaches the disk when the kernel writes it back, and no later than that; nobody waits for it. Without it
/// the end of every sandbox, and every snapshot, would take as long as writing all that is not yet on the disk.
fn overlay(scratch: &Scratch, layers: &[OwnedFd], top: Option<&OwnedFd>, place: &Path) -> Result<(), LayerError> {
    for (number, layer) in layers.iter().enumerate() {
        let at = scratch.directory(&format!("l{number}"), 0o700)?;
        tree::restrict(layer, tree::READ_ONLY, &at)?;
        tree::attach_own(layer, &at)?;
    }
    let at = scratch.directory("top", 0o700)?;
    if let Some(top) = top {
        tree::restrict(top, tree::SHOWN, &at)?;
        tree::attach_own(top, &at)?;
    } else {
        scratch.directory("top/tree", 0o755)?;
        scratch.directory("top/work", 0o755)?;
    }
    let mut lower: Vec<String> = (0..layers.len()).rev().map(|number| format!("l{number}")).collect();
    if lower.is_empty() {
        // There must be one.
        scratch.directory("none", 0o755)?;
        lower.push("none".to_owned());
    }
    let options = format!("lowerdir={},upperdir=top/tree,workdir=top/work,userxattr,volatile", lower.join(":"));
    let options = CString::new(options).map_err(|_| LayerError::new(Layer::Mounts, "overlay options", Some(libc::EINVAL)))?;
    let parent = place.parent().unwrap_or(place);
    rustix::process::chdir(parent).at(Layer::Mounts, || "chdir to the scratch file system".to_owned())?;
    mount("overlay", place, "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .at(Layer::Mounts, || format!("mount an overlay of {} layers", layers.len()))
        .map_err(|error| match error.errno {
            Some(libc::ENOSPC) => {
                error.remedy("the disk that its changes go to is full: free some of it, or go back to a snapshot")
            }
            _ => error.remedy("overlayfs in a user namespace needs Linux 5.11, over id-mapped layers 5.19"),
        })
}
