//! A directory of a test's own, with the state of sandboxes in it, which goes with it whatever modes are in it.

use agentd_core::{Bytes, SandboxSpec, Writable};
use agentd_kernel::{mount::OwnMounts, volume::LEAST_BYTES};
use agentd_sandboxes::{About, LayerId, Name, Problem, Record, State};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A directory of a test's own.
pub struct Place {
    directory: tempfile::TempDir,
    pub state: State,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        Self { directory, state }
    }

    /// One whose state can have sandboxes with a limit, for this thread and those that it starts. Only root's can.
    pub fn with_volumes() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let state = State::open_with_volumes(&directory.path().join("state"), OwnMounts::take().unwrap()).unwrap();
        Some(Self { directory, state })
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What fsck finds: of each problem its kind, and whether it is damage.
    pub fn problems(&self) -> Vec<String> {
        let said = |problem: &Problem| {
            let kind = format!("{problem:?}");
            format!("{}{}", if problem.is_damage() { "damage: " } else { "" }, kind.split([' ', '(']).next().unwrap())
        };
        self.state.fsck().unwrap().iter().map(said).collect()
    }

    /// What is in a folder of the state.
    pub fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.at("state").join(folder)).unwrap().count()
    }

    /// A new sandbox.
    pub fn sandbox(&self, called: &str) -> Record {
        self.state.create(&name(called), About::default()).unwrap()
    }

    /// A new sandbox that may keep 16 MiB.
    pub fn limited(&self, called: &str) -> Record {
        self.state.create(&name(called), limited()).unwrap()
    }

    /// The top's tree of a sandbox.
    pub fn top(&self, called: &str) -> PathBuf {
        self.state.layer_paths(&self.state.record(&name(called)).unwrap()).top.join("tree")
    }

    pub fn tree(&self, layer: LayerId) -> PathBuf {
        self.at("state/layers").join(layer.to_string()).join("tree")
    }

    /// The trees of a sandbox as it is now, the lowest first.
    pub fn trees(&self, called: &str) -> Vec<PathBuf> {
        let record = self.state.record(&name(called)).unwrap();
        record.sealed.iter().chain([&record.top]).map(|layer| self.tree(*layer)).collect()
    }

    /// Nothing is damaged, left or unknown.
    pub fn assert_clean(&self) {
        assert_eq!(self.state.fsck().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
        assert_eq!(self.count("staging"), 0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        open_up(self.directory.path());
    }
}

/// What a sandbox with a limit is asked to be.
pub fn limited() -> About {
    let spec = SandboxSpec { writable: Writable::Volume(Bytes(LEAST_BYTES)), ..SandboxSpec::default() };
    About { spec, ..About::default() }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Makes directories enterable; links are not followed.
pub fn open_up(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            open_up(&entry.path());
        }
    }
}
