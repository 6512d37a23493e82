//! The *view* of `linux-native` (`mount_namespaces(7)`): the host's tree with everything private covered.
//!
//! An empty directory covers every directory below `/` that is not part of the system; grants are attached over the covers. The
//! covers also hide path-based Unix sockets, which Landlock does not restrict, except those in directories of the system's
//! programs. The rest of the host's tree becomes read-only, because Landlock does not restrict changes of modes, times and
//! attributes either. The tree and the grants are mounted `nosuid,nodev`. The order matters: the trees of the grants are cloned
//! first, while the host's view is complete, and attached last.
//!
//! All private directories (`/tmp`, the home directory, `/dev/shm`, the covers) are on one tmpfs. Creating a file system takes
//! longer than all other steps here, and one size limit applies to all private directories together.

mod copy_on_write;
mod dev;
pub mod device;
pub mod etc;
pub mod names;
mod own;
mod place;
mod proc;
pub mod root;
mod scratch;
mod tree;
pub mod trust;

pub(crate) use dev::NODES;
pub use own::OwnMounts;
pub(crate) use tree::{attach_at, clone_tree, open_beneath};

use crate::{ErrnoContext, object};
use agentd_core::{Access, Control, ControlError, ObjectId};
use copy_on_write::Uppers;
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountPropagationFlags, mount_change},
};
use scratch::Scratch;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

/// A granted path, after resolution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantPlan {
    /// Absolute path on the host, without symbolic links.
    #[serde(with = "crate::path_bytes::one")]
    pub path: PathBuf,
    /// Path in the sandbox; equal to `path` in a view of the host's own tree.
    #[serde(with = "crate::path_bytes::one")]
    pub target: PathBuf,
    /// Permitted access.
    pub access: Access,
    /// Paths relative to `path` that stay read-only if they exist.
    #[serde(with = "crate::path_bytes::many")]
    pub protect: Vec<PathBuf>,
    /// Paths relative to `path` that the caller released from protection.
    #[serde(with = "crate::path_bytes::many")]
    pub unprotected: Vec<PathBuf>,
    /// Owner of `path` on the host: uid and gid.
    pub owner: (u32, u32),
    /// Object that `path` led to when it was resolved. No other object is mounted.
    pub object: ObjectId,
}

impl GrantPlan {
    /// Returns the plan of a grant of root's files that protects nothing. It cannot be mounted, because `object` identifies no
    /// object.
    pub fn new(path: impl Into<PathBuf>, target: impl Into<PathBuf>, access: Access) -> Self {
        let (protect, unprotected) = (Vec::new(), Vec::new());
        let (path, target) = (path.into(), target.into());
        Self { path, target, access, protect, unprotected, owner: (0, 0), object: ObjectId::default() }
    }
}

/// The plan of a sandbox's view of the host's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPlan {
    /// Directories, files and sockets directly below `/` to be covered; absolute paths.
    #[serde(with = "crate::path_bytes::many")]
    pub masks: Vec<PathBuf>,
    /// Paths in the covered directories that stay visible, read-only; absolute, without symbolic links.
    #[serde(with = "crate::path_bytes::many")]
    pub shown: Vec<PathBuf>,
    /// Path of the private home directory.
    #[serde(with = "crate::path_bytes::one")]
    pub home: PathBuf,
    /// Account, host name and resolver of the payload.
    pub names: names::NamesPlan,
    /// The trust stores of the payload, if its TLS is inspected.
    pub trust: Option<trust::TrustPlan>,
    /// Symbolic links in covered directories: path and target.
    #[serde(with = "crate::path_bytes::pairs")]
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Grants, parents before children.
    pub grants: Vec<GrantPlan>,
    /// Size limit of all private directories together, in bytes.
    pub scratch_bytes: u64,
}

impl ViewPlan {
    /// Returns the paths at which the view shows private content of the sandbox, and at which the host's tree has content that
    /// the sandbox must not see.
    pub fn private(&self) -> Vec<&Path> {
        let copies = self.grants.iter().filter(|grant| grant.access == Access::CopyOnWrite).map(|grant| grant.target.as_path());
        let own = SCRATCH.map(Path::new).into_iter().chain(["/dev", "/sys/fs/cgroup"].map(Path::new));
        own.chain([self.home.as_path()]).chain(copies).collect()
    }
}

/// Directories that are private and writable in every view.
pub const SCRATCH: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The host's view, kept while another view is tried.
pub struct Fallback {
    namespace: OwnedFd,
    umask: rustix::fs::Mode,
}

impl Fallback {
    /// Keeps this process's mount namespace and umask, and moves the process into a copy of the namespace.
    ///
    /// # Errors
    /// The errno of opening the namespace or of `unshare(2)`.
    pub fn keep() -> Result<Self, ControlError> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let namespace = rustix::fs::open("/proc/self/ns/mnt", flags, rustix::fs::Mode::empty())
            .during(Control::Mounts, || "open /proc/self/ns/mnt".to_owned())?;
        crate::namespace::new_mounts()?;
        let umask = rustix::process::umask(rustix::fs::Mode::from(0o022));
        rustix::process::umask(umask);
        Ok(Self { namespace, umask })
    }

    /// Moves the process back into the kept mount namespace. The partially built view is discarded.
    ///
    /// # Errors
    /// The errno of `setns(2)` or `chdir(2)`.
    pub fn restore(self) -> Result<(), ControlError> {
        rustix::process::umask(self.umask);
        crate::namespace::enter_mounts(&self.namespace)?;
        rustix::process::chdir("/").during(Control::Mounts, || "chdir /".to_owned())
    }
}

/// A view that is complete except for its grants.
pub struct View<'a> {
    plan: &'a ViewPlan,
    /// Directory for the changes to copy-on-write grants; `None` without such grants.
    uppers: Option<Uppers>,
    /// Notes for the report, collected so far.
    notes: Vec<String>,
}

/// Opens the granted objects, in order, in this process's view, which must still be the host's.
///
/// # Errors
/// If a path no longer leads to the granted object.
pub fn open_grants(grants: &[GrantPlan]) -> Result<Vec<OwnedFd>, ControlError> {
    grants.iter().map(|grant| object::reopen(&grant.path, &grant.object)).collect()
}

/// Returns detached trees of `grants`. `opened` must come from [`open_grants`] in the same view.
///
/// # Errors
/// The errno of `open_tree(2)`.
pub fn clone_grants(grants: &[GrantPlan], opened: &[OwnedFd]) -> Result<Vec<OwnedFd>, ControlError> {
    grants.iter().zip(opened).map(|(grant, opened)| tree::clone_at(opened.as_fd(), &grant.path)).collect()
}

/// Returns detached trees of `paths`, in this process's view, which must still be the host's.
pub(crate) fn clone_trees<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Vec<OwnedFd>, ControlError> {
    paths.into_iter().map(|path| tree::clone_tree(path)).collect()
}

/// Detached mount trees of the sandbox's own control groups, and their mount points.
pub type OwnTrees = Vec<(OwnedFd, PathBuf)>;

/// Mount attributes of [`OwnTrees`].
const SHOWN_OF_THE_KERNEL: u64 = tree::READ_ONLY | libc::MOUNT_ATTR_NOEXEC;

/// The part that all views have in common: private directories and devices.
pub struct ViewBase {
    /// The umask of this process, which is restored when the view is complete.
    umask: rustix::fs::Mode,
    scratch: Scratch,
}

impl ViewBase {
    /// Builds this part in this process's new mount namespace, with at most `scratch_bytes` bytes in private directories. All
    /// mounts of the host become private and read-only.
    ///
    /// # Errors
    /// The error of the first step that fails. After an error, the view is incomplete.
    pub fn build(scratch_bytes: u64) -> Result<Self, ControlError> {
        // The modes below are final, independent of the umask. The usual umask is restored for commands.
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .during(Control::Mounts, || "make the mounts below / private".to_owned())?;
        let devices = dev::clone_nodes()?;
        tree::restrict_all(Path::new("/"), tree::READ_ONLY)?;
        let scratch = Scratch::mount(scratch_bytes)?;
        dev::populate(&scratch.directory("dev", 0o755)?)?;
        scratch.show("dev", 0o755, Path::new("/dev"))?;
        dev::attach_mounts(Path::new("/dev"), devices, &scratch)?;
        scratch.show("tmp", 0o1777, Path::new("/tmp"))?;
        Ok(Self { umask, scratch })
    }
}

/// Completes the view. `own` are the trees of the sandbox's control groups.
///
/// # Errors
/// The error of the first step that fails. After an error, the view is incomplete.
pub fn build(plan: &ViewPlan, ViewBase { umask, scratch }: ViewBase, own: OwnTrees) -> Result<View<'_>, ControlError> {
    make_links(plan, Path::new("/tmp"), Path::new("/tmp"))?;
    // Mode 111 also forbids listing the directory.
    let empty = scratch.directory("empty", 0o111)?;
    for (number, mask) in plan.masks.iter().enumerate() {
        cover(plan, mask, &own, &empty, || scratch.directory(&number.to_string(), 0o755))?;
    }
    for (tree, place) in own {
        tree::restrict(&tree, SHOWN_OF_THE_KERNEL, &place)?;
        tree::attach_own(&tree, &place)?;
    }
    let mut notes = Vec::new();
    names::show(&plan.names, &scratch, &mut notes)?;
    plan.trust.as_ref().map_or(Ok(()), |trust| trust::show(trust, &scratch))?;
    let uppers = Uppers::prepare(&scratch, &plan.grants)?;
    // Covers /proc, where the scratch file system is mounted.
    proc::apply(Path::new("/proc"), &mut notes)?;
    rustix::process::umask(umask);
    Ok(View { plan, uppers, notes })
}

/// Covers `mask`. A file or socket is covered with an empty file. A directory is covered with `empty`, or with a new directory
/// from `own` if it contains private, visible or granted paths, or links.
fn cover(
    plan: &ViewPlan,
    mask: &Path,
    groups: &OwnTrees,
    empty: &Path,
    own: impl FnOnce() -> Result<PathBuf, ControlError>,
) -> Result<(), ControlError> {
    fn paths_below<'a>(mask: &Path, paths: impl IntoIterator<Item = &'a Path>) -> Vec<&'a Path> {
        paths.into_iter().filter_map(|path| path.strip_prefix(mask).ok()).collect()
    }
    if !mask.is_dir() {
        return tree::show(&own_file(empty)?, mask);
    }
    let public = paths_below(mask, [Path::new("/var/tmp")]);
    let home = paths_below(mask, [plan.home.as_path()]);
    let shown = paths_below(mask, plan.shown.iter().map(PathBuf::as_path));
    let resolver = paths_below(mask, plan.names.hidden_resolver());
    let groups = paths_below(mask, groups.iter().map(|(_, place)| place.as_path()));
    let granted = plan.grants.iter().any(|grant| grant.target.starts_with(mask)) || !groups.is_empty();
    let linked = plan.links.iter().any(|(place, _)| place.starts_with(mask));
    if !linked && public.is_empty() && home.is_empty() && shown.is_empty() && resolver.is_empty() && !granted {
        return tree::show(empty, mask);
    }
    let own = own()?;
    for (relative, mode) in public.iter().map(|path| (path, 0o1777)).chain(home.iter().map(|path| (path, 0o700))) {
        make(&own.join(relative), mode)?;
    }
    for relative in &groups {
        make(&own.join(relative), 0o755)?;
    }
    for relative in &shown {
        make(&own.join(relative), 0o755)?;
        tree::show_all(&mask.join(relative), &own.join(relative))?;
    }
    for relative in &resolver {
        let place = own.join(relative);
        make(place.parent().unwrap_or(&own), 0o755)?;
        fs::write(&place, []).during(Control::Mounts, || format!("create the mount point {}", mask.join(relative).display()))?;
    }
    make_links(plan, mask, &own)?;
    if shown.is_empty() { tree::show(&own, mask) } else { tree::show_all(&own, mask) }
}

/// Returns the empty file next to the directory `empty`, creating it on the first call.
fn own_file(empty: &Path) -> Result<PathBuf, ControlError> {
    let path = empty.with_extension("file");
    let options = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(&path, options, Mode::from(0o444))
        .during(Control::Mounts, || "create an empty file for the view".to_owned())?;
    Ok(path)
}

/// Creates the plan's links that are below `covered`, in the directory `own`, which is shown there.
fn make_links(plan: &ViewPlan, covered: &Path, own: &Path) -> Result<(), ControlError> {
    for (place, target) in &plan.links {
        let Ok(relative) = place.strip_prefix(covered) else { continue };
        let place = own.join(relative);
        make(place.parent().unwrap_or(own), 0o755)?;
        match std::os::unix::fs::symlink(target, &place) {
            // A private file of the sandbox already has this name.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.during(Control::Mounts, || format!("symlink {}", covered.join(relative).display()))?,
        }
    }
    Ok(())
}

impl View<'_> {
    /// Attaches the grants' trees. Returns the notes for the report.
    ///
    /// # Errors
    /// The error of the first step that fails.
    pub fn attach(self, trees: Vec<OwnedFd>) -> Result<Vec<String>, ControlError> {
        let mut notes = self.notes;
        let grants = &self.plan.grants;
        for (index, (grant, tree)) in grants.iter().zip(trees).enumerate() {
            let Some(tree) = copy_on_write::layered(self.uppers.as_ref(), (index, grant), tree, &mut notes)? else { continue };
            pin_between(Path::new("/"), &grants[..index], grant)?;
            attach(grant, tree)?;
        }
        // Runs after all grants are attached, because one grant may be in a protected path of another.
        for grant in grants {
            for relative in &grant.protect {
                tree::protect(&grant.path, relative, &mut notes)?;
            }
        }
        rustix::process::chdir("/").during(Control::Mounts, || "chdir /".to_owned())?;
        Ok(notes)
    }
}

/// If `grant` is inside one of the `earlier` grants, also makes the directories between the two mount points into mount points.
/// Otherwise the payload could rename such a directory and create another in its place. All paths are below `root`.
fn pin_between(root: &Path, earlier: &[GrantPlan], grant: &GrantPlan) -> Result<(), ControlError> {
    let around = earlier.iter().rev().find(|outer| grant.target.starts_with(&outer.target) && grant.target != outer.target);
    let Some((outer, parent)) = around.zip(grant.target.parent()) else { return Ok(()) };
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    tree::pin(&below(&outer.target), parent.strip_prefix(&outer.target).unwrap_or(parent))
}

fn attach(grant: &GrantPlan, tree: OwnedFd) -> Result<(), ControlError> {
    let is_dir = rustix::fs::fstat(&tree)
        .map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir())
        .during(Control::Mounts, || format!("stat the tree of {}", grant.path.display()))?;
    let place = &grant.target;
    if is_dir {
        directory(place)?;
    } else {
        if let Some(parent) = place.parent() {
            directory(parent)?;
        }
        if !place.exists() {
            fs::write(place, []).during(Control::Mounts, || format!("create the mount point {}", place.display()))?;
        }
    }
    tree::restrict(&tree, tree::attributes(grant.access), place)?;
    tree::attach(tree, place)
}

/// Creates a directory and its parents if they are missing.
fn directory(path: &Path) -> Result<(), ControlError> {
    if path.is_dir() { Ok(()) } else { make(path, 0o755) }
}

fn make(path: &Path, mode: u32) -> Result<(), ControlError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).during(Control::Mounts, || format!("mkdir {}", path.display()))
}
