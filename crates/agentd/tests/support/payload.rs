//! A home directory with a secret, and random changes by a payload that may write to a project in it. Root on the host changes
//! mounts at the same time.

use proptest::prelude::*;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags},
    mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags},
    thread::UnshareFlags,
};
use std::{
    ffi::OsString,
    fs,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use tempfile::TempDir;

/// The content of the secret files.
pub const KEY: &str = "the key to all";

/// One change of the project.
#[derive(Debug, Clone)]
pub enum Step {
    Directory(PathBuf),
    File(PathBuf),
    /// Creates a symbolic link to a target.
    Link(PathBuf, Target),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Remove(PathBuf),
    /// Creates a hard link to a file.
    HardLink(PathBuf, PathBuf),
    /// Binds a directory or file to another. Only root can.
    Bind(PathBuf, PathBuf),
    /// Binds the secret to a directory, so that its path leads to the secret without any link.
    BindSecret(PathBuf),
    Unmount(PathBuf),
}

/// The target of a link.
#[derive(Debug, Clone)]
pub enum Target {
    /// The secret, the home directory, or its parent.
    Outside(u8),
    /// A relative path.
    Relative(PathBuf),
}

/// Generates a name in the project.
pub fn name() -> impl Strategy<Value = PathBuf> {
    "[abc](/[abc]){0,2}".prop_map(PathBuf::from)
}

/// Generates changes of the project.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let relative = prop_oneof![name(), Just("..".into()), Just("../.ssh".into()), Just("../../.ssh".into())];
    let target = prop_oneof![(0..4u8).prop_map(Target::Outside), relative.prop_map(Target::Relative)];
    let step = prop_oneof![
        4 => name().prop_map(Step::Directory),
        1 => name().prop_map(Step::File),
        3 => (name(), target).prop_map(|(name, target)| Step::Link(name, target)),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        3 => (name(), name()).prop_map(|(from, to)| Step::Exchange(from, to)),
        1 => name().prop_map(Step::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Step::HardLink(from, to)),
        1 => (name(), name()).prop_map(|(from, to)| Step::Bind(from, to)),
        1 => name().prop_map(Step::Unmount),
    ];
    prop::collection::vec(step, 1..16)
}

/// Generates a mount of the secret over a path that may be granted.
pub fn secret_mount() -> impl Strategy<Value = Step> {
    name().prop_map(Step::BindSecret)
}

/// Moves this process to a separate mount namespace, so that the mounts of these tests end with it. Call this function before
/// the first thread is started.
pub fn own_mounts() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // SAFETY: this process has a single thread, which shares no file system state with another.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

fn is_mount(at: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statx(at.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// A home directory with a secret and a project.
pub struct Home {
    root: TempDir,
    path: PathBuf,
    project: OwnedFd,
}

impl Home {
    /// Creates a home and applies steps to its project.
    pub fn new(steps: &[Step]) -> Self {
        Self::make(tempfile::tempdir().unwrap(), steps)
    }

    /// Creates a home in memory, which is faster. Not for sandboxes, which have their own `/dev/shm`.
    pub fn in_memory(steps: &[Step]) -> Self {
        Self::make(tempfile::tempdir_in("/dev/shm").unwrap(), steps)
    }

    fn make(root: TempDir, steps: &[Step]) -> Self {
        let path = root.path().canonicalize().unwrap().join("home");
        for directory in [".ssh/a/b", ".ssh/c", "project/a/b", "project/b", "project/c"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        for secret in [".ssh/a/key", ".ssh/b", ".ssh/c/a"] {
            fs::write(path.join(secret), KEY).unwrap();
        }
        let project = rustix::fs::open(path.join("project"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let home = Self { root, path, project };
        steps.iter().for_each(|step| home.apply(step));
        home
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn project(&self) -> PathBuf {
        self.path.join("project")
    }

    /// Returns whether the descriptor refers to the secret, to a file in it, or to a parent directory of it.
    pub fn is_secret(&self, opened: &OwnedFd) -> bool {
        let of = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let inside = ["", "a", "a/b", "a/key", "b", "c", "c/a"].map(|name| self.path.join(".ssh").join(name));
        let around = [self.path.clone(), self.root.path().to_path_buf(), "/".into()];
        let opened = of(rustix::fs::fstat(opened).unwrap());
        inside.iter().chain(&around).any(|path| of(rustix::fs::lstat(path).unwrap()) == opened)
    }

    /// Returns whether the secret is unchanged.
    pub fn is_whole(&self) -> bool {
        let count = |path: &str| fs::read_dir(self.path.join(path)).unwrap().count();
        [count(""), count(".ssh"), count(".ssh/a"), count(".ssh/a/b"), count(".ssh/c")] == [2, 3, 2, 0, 1]
            && [".ssh/a/key", ".ssh/b", ".ssh/c/a"].iter().all(|file| fs::read(self.path.join(file)).unwrap() == KEY.as_bytes())
    }

    /// Applies one step if possible, but never through a link: inside a sandbox, a link does not lead to host files.
    pub fn apply(&self, step: &Step) {
        let done = match step {
            Step::Directory(name) => self.in_parent(name, |at, name| rustix::fs::mkdirat(at, name, Mode::from(0o755))),
            Step::File(name) => {
                self.in_parent(name, |at, name| rustix::fs::mknodat(at, name, FileType::RegularFile, Mode::from(0o644), 0))
            }
            Step::Link(name, target) => {
                let target = match target {
                    Target::Outside(0) => self.path.clone(),
                    Target::Outside(1) => self.root.path().to_path_buf(),
                    Target::Outside(_) => self.path.join(".ssh"),
                    Target::Relative(path) => path.clone(),
                };
                self.in_parent(name, |at, name| rustix::fs::symlinkat(&target, at, name))
            }
            Step::Rename(from, to) => self.rename(from, to, RenameFlags::empty()),
            Step::Exchange(from, to) => self.rename(from, to, RenameFlags::EXCHANGE),
            Step::Remove(name) => self.in_parent(name, |at, name| {
                rustix::fs::unlinkat(at, &name, AtFlags::empty()).or_else(|_| rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR))
            }),
            Step::HardLink(from, to) => self.in_parent(from, |at, from| {
                self.in_parent(to, |other, to| rustix::fs::linkat(at, from, other, to, AtFlags::empty()))
            }),
            Step::Bind(from, to) => self.opened(from).and_then(|from| self.bind(&from, to)),
            Step::BindSecret(to) => {
                let secret = rustix::fs::open(self.path.join(".ssh"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
                secret.and_then(|secret| self.bind(&secret, to))
            }
            Step::Unmount(name) => self.opened(name).and_then(|at| {
                let place = format!("/proc/self/fd/{}", at.as_raw_fd());
                if is_mount(&at)? { rustix::mount::unmount(place, UnmountFlags::DETACH) } else { Ok(()) }
            }),
        };
        // Steps that are impossible in the current tree are skipped.
        done.ok();
    }

    fn rename(&self, from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
        self.in_parent(from, |at, from| self.in_parent(to, |other, to| rustix::fs::renameat_with(at, from, other, to, flags)))
    }

    /// Opens an object of the project, without following a link.
    fn opened(&self, name: &Path) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        rustix::fs::openat2(&self.project, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Binds an object to a path in the project. A path has at most one mount, so that their number is bounded.
    fn bind(&self, from: &OwnedFd, to: &Path) -> rustix::io::Result<()> {
        let to = self.opened(to)?;
        if is_mount(&to)? {
            return Ok(());
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(from, c"", flags)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(tree, c"", to, c"", flags)
    }

    /// Unmounts everything in the project.
    fn unmount_all(&self) {
        let inside = format!("{}/", self.project().display());
        loop {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            // The mount point is the fifth field (`proc_pid_mountinfo(5)`). Later mounts may lie on earlier ones.
            let mut points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
            points.retain(|point| point.starts_with(&inside));
            let Some(last) = points.last() else { return };
            rustix::mount::unmount(*last, UnmountFlags::DETACH).unwrap();
        }
    }

    fn in_parent<T>(&self, name: &Path, work: impl FnOnce(&OwnedFd, OsString) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        let parent = Path::new(".").join(name.parent().unwrap());
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let at = rustix::fs::openat2(&self.project, parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        work(&at, name.file_name().unwrap().to_owned())
    }

    /// Runs `work` while another thread applies these steps repeatedly.
    pub fn while_changed<T>(&self, steps: &[Step], work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        /// Stops the thread, also if `work` panics.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    steps.iter().for_each(|step| self.apply(step));
                }
            });
            let _done = Done(&done);
            work()
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.unmount_all();
    }
}
