//! A temporary directory with a sandbox store. Dropping it removes all files, whatever their modes.

use agentd_core::{Bytes, SandboxSpec, Writable};
use agentd_kernel::{mount::OwnMounts, volume::MIN_BYTES};
use agentd_sandboxes::{LayerId, Name, Problem, Record, SandboxSettings, SandboxStore};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A temporary directory with a sandbox store.
pub struct StateDir {
    directory: tempfile::TempDir,
    pub state: SandboxStore,
}

impl StateDir {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = SandboxStore::open(&directory.path().join("state")).unwrap();
        Self { directory, state }
    }

    /// Creates a store that supports sandboxes with a disk limit, for this thread and the threads that it starts. Returns `None`
    /// unless the caller is root.
    pub fn with_volumes() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let state = SandboxStore::open_with_volumes(&directory.path().join("state"), OwnMounts::take().unwrap()).unwrap();
        Some(Self { directory, state })
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the kind of each problem that fsck finds, with the prefix `damage: ` if the problem is damage.
    pub fn problems(&self) -> Vec<String> {
        let text = |problem: &Problem| {
            let kind = format!("{problem:?}");
            format!("{}{}", if problem.is_damage() { "damage: " } else { "" }, kind.split([' ', '(']).next().unwrap())
        };
        self.state.fsck().unwrap().iter().map(text).collect()
    }

    /// Returns the number of entries in a directory of the store.
    pub fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.at("state").join(folder)).unwrap().count()
    }

    /// Creates a sandbox.
    pub fn sandbox(&self, called: &str) -> Record {
        self.state.create(&name(called), SandboxSettings::default()).unwrap()
    }

    /// Creates a sandbox with a disk limit of 16 MiB.
    pub fn limited(&self, called: &str) -> Record {
        self.state.create(&name(called), limited()).unwrap()
    }

    /// Returns the tree of a sandbox's upper layer.
    pub fn upper(&self, called: &str) -> PathBuf {
        self.state.layer_paths(&self.state.record(&name(called)).unwrap()).upper.join("tree")
    }

    pub fn tree(&self, layer: LayerId) -> PathBuf {
        self.at("state/layers").join(layer.to_string()).join("tree")
    }

    /// Returns the trees of a sandbox's current layers, lowest first.
    pub fn trees(&self, called: &str) -> Vec<PathBuf> {
        let record = self.state.record(&name(called)).unwrap();
        record.lower.iter().chain([&record.upper]).map(|layer| self.tree(*layer)).collect()
    }

    /// Checks that fsck finds no problem, and that the staging directory is empty.
    pub fn assert_clean(&self) {
        assert_eq!(self.state.fsck().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!(self.count("staging"), 0);
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        open_up(self.directory.path());
    }
}

/// Returns the description of a sandbox with a disk limit.
pub fn limited() -> SandboxSettings {
    let spec = SandboxSpec { writable: Writable::Volume(Bytes(MIN_BYTES)), ..SandboxSpec::default() };
    SandboxSettings { spec, ..SandboxSettings::default() }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Makes directories accessible to their owner, so that they can be removed. Does not follow links.
pub fn open_up(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            open_up(&entry.path());
        }
    }
}
