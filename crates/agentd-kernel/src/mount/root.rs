//! A root of a sandbox's own (`pivot_root(2)`): layers of an image under a writable one, or a read-only view of the host's programs in an
//! otherwise empty root. Nothing of the host's tree remains but what is granted.
//!
//! Everything writable is one tmpfs, mounted where the host's `/proc` is while the root is built: the kernel allows a new `/proc` only as
//! long as the host's is in this namespace, though covered (`mount_too_revealing`).

use super::{GrantPlan, dev, place, proc, scratch::Scratch, tree};
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CString,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The root of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlan {
    /// Unpacked layers of an image, the lowest first; none for a root of the host's programs.
    #[serde(with = "crate::path_bytes::many")]
    pub layers: Vec<PathBuf>,
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
    /// Size limit of all that is written, bytes.
    pub scratch_bytes: u64,
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

/// Detached trees of a plan's layers, the lowest first, from this process's view, which must still be the host's.
pub fn clone_layers(plan: &RootPlan) -> Result<Vec<OwnedFd>, LayerError> {
    plan.layers.iter().map(|path| tree::clone_tree(path)).collect()
}

/// Builds the root in this process's (new) mount namespace, in which it is root.
pub fn build(plan: &RootPlan, layers: Vec<OwnedFd>) -> Result<Root<'_>, LayerError> {
    let umask = rustix::process::umask(Mode::empty());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at(Layer::Mounts, || "make / private".to_owned())?;
    // While the host's tree is whole.
    let devices = dev::clone_nodes()?;
    let system = plan.system.iter().map(|path| tree::clone_tree(path)).collect::<Result<Vec<_>, _>>()?;
    let scratch = Scratch::mount(plan.scratch_bytes)?;
    let path = scratch.directory("root", 0o755)?;
    if layers.is_empty() {
        tree::show(&path, &path)?;
    } else {
        overlay(&scratch, &layers, &path)?;
    }
    let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Mounts, || "open the new root".to_owned())?;
    for (name, mode) in DIRECTORIES {
        place::directory(&root, Path::new(name), Mode::from(mode))?;
    }
    place::directory(&root, &plan.home, Mode::from(0o700))?;
    for (path, tree) in plan.system.iter().zip(system) {
        attach(&root, &tree, path, tree::READ_ONLY)?;
    }
    for (name, content) in &plan.files {
        place::file(&root, name)?;
        let place = path.join(name.strip_prefix("/").unwrap_or(name));
        fs::write(place, content).at(Layer::Mounts, || format!("write {}", name.display()))?;
    }
    for (name, target) in &plan.links {
        let name = name.strip_prefix("/").unwrap_or(name);
        rustix::fs::symlinkat(target, &root, name).at(Layer::Mounts, || format!("symlink /{}", name.display()))?;
    }
    let dev = scratch.directory("dev", 0o755)?;
    dev::populate(&dev)?;
    tree::show(&dev, &path.join("dev"))?;
    dev::furnish(&path.join("dev"), devices, &scratch)?;
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
            attach(&self.root, &tree, &grant.target, tree::attributes(grant.access))?;
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

/// Attaches `tree` at `target` below `root`, with `attributes`.
fn attach(root: &OwnedFd, tree: &OwnedFd, target: &Path, attributes: u64) -> Result<(), LayerError> {
    let kind = rustix::fs::fstat(tree).at(Layer::Mounts, || format!("stat the tree of {}", target.display()))?;
    let place = if rustix::fs::FileType::from_raw_mode(kind.st_mode).is_dir() {
        place::directory(root, target, Mode::from(0o755))?
    } else {
        place::file(root, target)?
    };
    tree::restrict(tree, attributes, target)?;
    tree::attach_at(tree, &place, target)
}

/// Mounts an overlay of `layers`, the lowest first, with a writable layer on the scratch file system
/// (`Documentation/filesystems/overlayfs.rst`). Layers lie at short relative paths, because all of them must fit into one page.
fn overlay(scratch: &Scratch, layers: &[OwnedFd], place: &Path) -> Result<(), LayerError> {
    for (number, layer) in layers.iter().enumerate() {
        let at = scratch.directory(&format!("l{number}"), 0o700)?;
        tree::restrict(layer, tree::READ_ONLY, &at)?;
        tree::attach_own(layer, &at)?;
    }
    scratch.directory("upper", 0o755)?;
    scratch.directory("work", 0o755)?;
    let lower: Vec<String> = (0..layers.len()).rev().map(|number| format!("l{number}")).collect();
    let options = format!("lowerdir={},upperdir=upper,workdir=work,userxattr", lower.join(":"));
    let options = CString::new(options).map_err(|_| LayerError::new(Layer::Mounts, "overlay options", Some(libc::EINVAL)))?;
    let parent = place.parent().unwrap_or(place);
    rustix::process::chdir(parent).at(Layer::Mounts, || "chdir to the scratch file system".to_owned())?;
    mount("overlay", place, "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .at(Layer::Mounts, || format!("mount an overlay of {} layers", layers.len()))
        .map_err(|error| error.remedy("overlayfs in a user namespace needs Linux 5.11, over id-mapped layers 5.19"))
}
