//! The private mount view (`mount_namespaces(7)`): what of the host's tree a sandbox can name at all.
//!
//! An empty directory covers every directory below `/` that is not part of the system; grants are attached over that. Path-based
//! Unix sockets, which Landlock does not fence, are thereby out of reach too, unless they lie among the system's programs. All that
//! is left of the host's tree becomes read-only, because Landlock does not fence changes of modes, times and attributes either, and
//! `nosuid,nodev`, as the grants do. The order matters: trees of the grants are cloned first, while the host's view is still whole, and attached last.
//!
//! All that is private (`/tmp`, the home directory, `/dev/shm`, the covers) are directories of one tmpfs: a file system costs more
//! to make than everything else here, and one size limit holds for all of them together.

mod dev;
pub mod device;
mod own;
mod place;
mod proc;
pub mod root;
mod scratch;
mod tree;

pub(crate) use dev::NODES;
pub use own::OwnMounts;
pub use tree::clone_tree;
pub(crate) use tree::{attach_at, open_beneath};

use crate::At;
use agentd_core::{Access, Layer, LayerError};
use rustix::mount::{MountPropagationFlags, mount_change};
use scratch::Scratch;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

/// A granted path, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantPlan {
    /// Absolute, without symbolic links.
    #[serde(with = "crate::path_bytes::one")]
    pub path: PathBuf,
    /// Where it is shown; the same place in a view of the host's own tree.
    #[serde(with = "crate::path_bytes::one")]
    pub target: PathBuf,
    /// What may be done with it.
    pub access: Access,
    /// Paths below it, relative, that stay read-only where they exist.
    #[serde(with = "crate::path_bytes::many")]
    pub protect: Vec<PathBuf>,
    /// Owner of `path` on the host: user and group.
    pub owner: (u32, u32),
}

/// The view of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPlan {
    /// Directories below `/` to be covered, absolute.
    #[serde(with = "crate::path_bytes::many")]
    pub masks: Vec<PathBuf>,
    /// What of the covered directories is shown all the same, read-only: absolute, without symbolic links.
    #[serde(with = "crate::path_bytes::many")]
    pub shown: Vec<PathBuf>,
    /// Where the private home directory appears.
    #[serde(with = "crate::path_bytes::one")]
    pub home: PathBuf,
    /// Grants, parents before children.
    pub grants: Vec<GrantPlan>,
    /// Size limit of all that is private together, bytes.
    pub scratch_bytes: u64,
}

/// Directories that are private and writable in every view.
pub const SCRATCH: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The host's view, kept while another is tried.
pub struct Fallback {
    namespace: OwnedFd,
    umask: rustix::fs::Mode,
}

impl Fallback {
    /// Keeps this process's mount namespace, and goes on in a copy.
    pub fn keep() -> Result<Self, LayerError> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let namespace = rustix::fs::open("/proc/self/ns/mnt", flags, rustix::fs::Mode::empty())
            .at(Layer::Mounts, || "open /proc/self/ns/mnt".to_owned())?;
        crate::namespace::new_mounts()?;
        let umask = rustix::process::umask(rustix::fs::Mode::from(0o022));
        rustix::process::umask(umask);
        Ok(Self { namespace, umask })
    }

    /// Goes back to it: what was built by half is gone.
    pub fn restore(self) -> Result<(), LayerError> {
        rustix::process::umask(self.umask);
        crate::namespace::enter_mounts(&self.namespace)?;
        rustix::process::chdir("/").at(Layer::Mounts, || "chdir /".to_owned())
    }
}

/// A view that is built but for its grants.
pub struct View<'a>(&'a ViewPlan);

/// Detached trees of the grants, in order, from this process's view, which must still be the host's.
pub fn clone_grants(grants: &[GrantPlan]) -> Result<Vec<OwnedFd>, LayerError> {
    clone_trees(grants.iter().map(|grant| &grant.path))
}

/// Detached trees of what is at `paths`, likewise.
pub fn clone_trees<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Vec<OwnedFd>, LayerError> {
    paths.into_iter().map(|path| clone_tree(path)).collect()
}

/// Builds the view in this process's (new) mount namespace.
pub fn build(plan: &ViewPlan) -> Result<View<'_>, LayerError> {
    // Modes are meant as they are written here; commands get the usual one back.
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at(Layer::Mounts, || "make / private".to_owned())?;
    let devices = dev::clone_nodes()?;
    tree::restrict_all(Path::new("/"), tree::READ_ONLY)?;
    let scratch = Scratch::mount(plan.scratch_bytes)?;
    dev::populate(&scratch.directory("dev", 0o755)?)?;
    scratch.show("dev", 0o755, Path::new("/dev"))?;
    dev::furnish(Path::new("/dev"), devices, &scratch)?;
    scratch.show("tmp", 0o1777, Path::new("/tmp"))?;
    let empty = scratch.directory("empty", 0o555)?;
    for (number, mask) in plan.masks.iter().enumerate() {
        cover(plan, mask, &empty, || scratch.directory(&number.to_string(), 0o755))?;
    }
    // Over the place where the scratch file system itself is.
    proc::apply(Path::new("/proc"))?;
    rustix::process::umask(umask);
    Ok(View(plan))
}

/// Covers `mask` with `empty`, or, where something private, shown or granted lies below, with a directory of its own that holds it.
fn cover(
    plan: &ViewPlan,
    mask: &Path,
    empty: &Path,
    own: impl FnOnce() -> Result<PathBuf, LayerError>,
) -> Result<(), LayerError> {
    fn below<'a>(mask: &Path, paths: impl IntoIterator<Item = &'a Path>) -> Vec<&'a Path> {
        paths.into_iter().filter_map(|path| path.strip_prefix(mask).ok()).collect()
    }
    let public = below(mask, [Path::new("/var/tmp")]);
    let home = below(mask, [plan.home.as_path()]);
    let shown = below(mask, plan.shown.iter().map(PathBuf::as_path));
    let granted = plan.grants.iter().any(|grant| grant.path.starts_with(mask));
    if public.is_empty() && home.is_empty() && shown.is_empty() && !granted {
        return tree::show(empty, mask);
    }
    let own = own()?;
    for (relative, mode) in public.iter().map(|path| (path, 0o1777)).chain(home.iter().map(|path| (path, 0o700))) {
        make(&own.join(relative), mode)?;
    }
    for relative in &shown {
        make(&own.join(relative), 0o755)?;
        tree::show_all(&mask.join(relative), &own.join(relative))?;
    }
    if shown.is_empty() { tree::show(&own, mask) } else { tree::show_all(&own, mask) }
}

impl View<'_> {
    /// Attaches the grants' trees. Returns what was noteworthy.
    pub fn attach(self, trees: Vec<OwnedFd>) -> Result<Vec<String>, LayerError> {
        let mut notes = Vec::new();
        let grants = &self.0.grants;
        for (index, (grant, tree)) in grants.iter().zip(trees).enumerate() {
            pin_between(Path::new("/"), &grants[..index], grant)?;
            attach(grant, tree)?;
        }
        // When all is in place: one grant may lie in another's protected part.
        for grant in grants {
            for relative in &grant.protect {
                tree::protect(&grant.path, relative, &mut notes)?;
            }
        }
        rustix::process::chdir("/").at(Layer::Mounts, || "chdir /".to_owned())?;
        Ok(notes)
    }
}

/// Where `grant` lies in one of `earlier`, makes the directories between the two mount points: otherwise one could be renamed away, and
/// another made in its place. All lie below `root`.
fn pin_between(root: &Path, earlier: &[GrantPlan], grant: &GrantPlan) -> Result<(), LayerError> {
    let around = earlier.iter().rev().find(|outer| grant.target.starts_with(&outer.target) && grant.target != outer.target);
    let Some((outer, parent)) = around.zip(grant.target.parent()) else { return Ok(()) };
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    tree::pin(&below(&outer.target), parent.strip_prefix(&outer.target).unwrap_or(parent))
}

fn attach(grant: &GrantPlan, tree: OwnedFd) -> Result<(), LayerError> {
    let is_dir = rustix::fs::fstat(&tree)
        .map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir())
        .at(Layer::Mounts, || format!("stat the tree of {}", grant.path.display()))?;
    if is_dir {
        directory(&grant.path)?;
    } else {
        if let Some(parent) = grant.path.parent() {
            directory(parent)?;
        }
        if !grant.path.exists() {
            fs::write(&grant.path, []).at(Layer::Mounts, || format!("make a place for {}", grant.path.display()))?;
        }
    }
    tree::restrict(&tree, tree::attributes(grant.access), &grant.path)?;
    tree::attach(tree, &grant.path)
}

/// Makes a directory and its parents where they are missing.
fn directory(path: &Path) -> Result<(), LayerError> {
    if path.is_dir() { Ok(()) } else { make(path, 0o755) }
}

fn make(path: &Path, mode: u32) -> Result<(), LayerError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).at(Layer::Mounts, || format!("mkdir {}", path.display()))
}
