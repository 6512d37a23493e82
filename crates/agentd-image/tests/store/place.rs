//! A directory of a test's own, which goes with it whatever modes an archive gave to what is in it.

use agentd_image::ImageError;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A directory of a test's own.
pub struct Place(tempfile::TempDir);

impl Place {
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

impl Drop for Place {
    fn drop(&mut self) {
        open_up(self.path());
    }
}

/// What a collection is told where nothing outside the store uses its layers.
pub fn nobody() -> Result<Vec<PathBuf>, ImageError> {
    Ok(Vec::new())
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
