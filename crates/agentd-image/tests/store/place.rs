//! A temporary directory that is removed even if an archive removed permissions of its subdirectories.

use agentd_image::ImageError;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A temporary directory of one test.
pub struct StoreDir(tempfile::TempDir);

impl StoreDir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for StoreDir {
    fn drop(&mut self) {
        open_up(self.path());
    }
}

/// Returns the layers in use outside the store, for a collection: none.
pub fn no_users() -> Result<Vec<PathBuf>, ImageError> {
    Ok(Vec::new())
}

/// Sets mode 0700 on all directories of a tree. Links are not followed.
pub fn open_up(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            open_up(&entry.path());
        }
    }
}
