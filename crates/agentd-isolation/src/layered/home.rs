//! Where the layers of a backend's sandboxes are: a folder that is locked for as long as this process lives, and gone with it or removed by
//! the next.

use crate::{
    ContainerBackend,
    store::{Fresh, Store},
};
use agentd_core::IsolationError;
use agentd_sandboxes::{About, Name, State};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Numbers the sandboxes of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// See the head of this module.
pub(crate) struct Home {
    store: Store,
    folder: PathBuf,
    pub(super) state: Arc<State>,
    /// Makes what runs over the layers.
    pub(super) backend: Arc<ContainerBackend>,
    _lock: File,
}

impl Home {
    /// Makes one below `work_root`, and removes those of the dead.
    pub(crate) fn below(work_root: &Path) -> Result<Arc<Self>, IsolationError> {
        let uid = rustix::process::geteuid().as_raw();
        let store = Store::new(&work_root.join(format!("agentd-layers-{uid}")), erase);
        let Fresh { folder, lock } = store.make()?;
        let state = open(&folder).map_err(super::LayeredError::from)?;
        let backend = ContainerBackend::new(work_root);
        Ok(Arc::new(Self { store, folder, state: Arc::new(state), backend, _lock: lock }))
    }

    /// A name that no sandbox of this process has had.
    pub(super) fn fresh_name() -> Result<Name, IsolationError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("layered-{number}").parse().map_err(|error: agentd_sandboxes::NotAName| IsolationError::Lost(error.to_string()))
    }

    /// Makes a sandbox on disk.
    pub(super) async fn create(&self) -> Result<Name, IsolationError> {
        let name = Self::fresh_name()?;
        let of = name.clone();
        super::slot::on_disk(&self.state, move |state| state.create(&of, About::default()).map(drop)).await?;
        Ok(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What stays is met by the next.
        self.store.leave(&self.folder).ok();
    }
}

fn open(folder: &Path) -> Result<State, agentd_sandboxes::StateError> {
    State::open(&folder.join("state"))
}

/// Removes a home. What payloads wrote is removed by who knows how.
fn erase(folder: &Path) -> io::Result<()> {
    let state = open(folder).map_err(io::Error::other)?;
    for record in state.list().map_err(io::Error::other)?.into_iter().flatten() {
        state.remove(&record.name).map_err(io::Error::other)?;
    }
    state.collect().map_err(io::Error::other)?;
    fs::remove_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_dead_process_left_is_removed_whatever_it_is() {
        let root = tempfile::tempdir().unwrap();
        let all = root.path().join(format!("agentd-layers-{}", rustix::process::geteuid().as_raw()));
        let first = Home::below(root.path()).unwrap();
        let dead = all.join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("alive"), "").unwrap();
        let state = open(&dead).unwrap();
        let record = state.create(&"one".parse().unwrap(), About::default()).unwrap();
        let tree = state.layer_paths(&record).top.join("tree");
        fs::create_dir_all(tree.join("closed/deep")).unwrap();
        fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let second = Home::below(root.path()).unwrap();
        assert!(!dead.exists() && first.folder.exists() && second.folder.exists());
        drop((first, second));
        assert!(!all.exists());
    }
}
