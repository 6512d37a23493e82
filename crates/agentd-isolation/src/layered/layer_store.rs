//! The folder for the layers of a backend's sandboxes. It is locked while this process runs. The process removes it when the
//! process ends; if the process is killed, the next process that opens a store removes it.

use crate::store::{Fresh, Store};
use agentd_core::{IsolationBackend, IsolationError};
use agentd_log::LogFailure as _;
use agentd_sandboxes::{Name, SandboxSettings, SandboxStore};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// The number of the next sandbox of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The layers of the sandboxes of one backend, in a locked folder.
pub(crate) struct LayerStore {
    store: Store,
    folder: PathBuf,
    pub(super) state: Arc<SandboxStore>,
    /// Creates the sandboxes over the layers.
    pub(super) backend: Arc<dyn IsolationBackend>,
    _lock: File,
}

impl LayerStore {
    /// Returns the folder below `work_root` that contains all layer stores of this user.
    pub(crate) fn stores_dir(work_root: &Path) -> PathBuf {
        work_root.join(format!("agentd-layers-{}", rustix::process::geteuid().as_raw()))
    }

    /// Creates a store below `work_root` for sandboxes that `backend` runs. Removes the stores of dead processes first.
    pub(crate) fn open_in(work_root: &Path, backend: Arc<dyn IsolationBackend>) -> Result<Arc<Self>, IsolationError> {
        let store = Store::new(&Self::stores_dir(work_root), erase);
        let Fresh { folder, lock } = store.make()?;
        let state = open(&folder).map_err(super::LayeredError::from)?;
        Ok(Arc::new(Self { store, folder, state: Arc::new(state), backend, _lock: lock }))
    }

    /// Returns a name that no sandbox of this process has had.
    pub(super) fn fresh_name() -> Result<Name, IsolationError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("layered-{number}")
            .parse()
            .map_err(|error: agentd_sandboxes::NotAName| IsolationError::Internal(error.to_string()))
    }

    /// Creates the records of a sandbox on disk and returns its name.
    pub(super) async fn create(&self) -> Result<Name, IsolationError> {
        let name = Self::fresh_name()?;
        let of = name.clone();
        super::runtime::on_disk(&self.state, move |state| state.create(&of, SandboxSettings::default()).map(drop)).await?;
        Ok(name)
    }
}

impl Drop for LayerStore {
    fn drop(&mut self) {
        // If removal fails, the next process that creates a store tries again.
        self.store.remove(&self.folder).or_warn("remove layer store", &self.folder);
    }
}

fn open(folder: &Path) -> Result<SandboxStore, agentd_sandboxes::StoreError> {
    SandboxStore::open(&folder.join("state"))
}

/// Removes a layer store. [`SandboxStore`] removes the files of payloads, whose modes may prevent a plain removal.
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
    fn layer_store_of_dead_process_is_removed_with_inaccessible_directories() {
        let root = tempfile::tempdir().unwrap();
        let all = root.path().join(format!("agentd-layers-{}", rustix::process::geteuid().as_raw()));
        let backend: Arc<dyn IsolationBackend> = Arc::new(crate::ContainerBackend::new(root.path(), None).unwrap());
        let first = LayerStore::open_in(root.path(), backend.clone()).unwrap();
        let dead = all.join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("alive"), "").unwrap();
        let state = open(&dead).unwrap();
        let record = state.create(&"one".parse().unwrap(), SandboxSettings::default()).unwrap();
        let tree = state.layer_paths(&record).upper.join("tree");
        fs::create_dir_all(tree.join("closed/deep")).unwrap();
        fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let second = LayerStore::open_in(root.path(), backend).unwrap();
        assert!(!dead.exists() && first.folder.exists() && second.folder.exists());
        drop((first, second));
        assert!(!all.exists());
    }
}
