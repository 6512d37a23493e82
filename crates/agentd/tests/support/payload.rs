//! A home directory with a secret, and random changes by a payload that may write to a project in it.

use proptest::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use std::{
    ffi::OsString,
    fs,
    os::fd::OwnedFd,
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
    ];
    prop::collection::vec(step, 1..16)
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
        };
        // Steps that are impossible in the present tree are skipped.
        done.ok();
    }

    fn rename(&self, from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
        self.in_parent(from, |at, from| self.in_parent(to, |other, to| rustix::fs::renameat_with(at, from, other, to, flags)))
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
