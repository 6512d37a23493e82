//! A directory that a target may change, next to a file that must not change.

use std::{fs, path::PathBuf};
use tempfile::TempDir;

/// The content of the file that must not change.
const KEPT: &str = "kept";

/// The parent of the directory and the file; see the module documentation.
pub struct UnpackDir {
    whole: TempDir,
    /// The directory that may change.
    pub inside: PathBuf,
}

impl UnpackDir {
    /// Creates the directory and the file.
    pub fn new() -> Self {
        let whole = tempfile::tempdir_in("/dev/shm").expect("create a directory");
        let inside = whole.path().join("inside");
        fs::create_dir(&inside).expect("create a directory");
        fs::write(whole.path().join("outside"), KEPT).expect("create a file");
        Self { whole, inside }
    }

    /// Panics if anything outside the directory has changed.
    pub fn check(&self) {
        assert_eq!(fs::read_to_string(self.whole.path().join("outside")).expect("the outside file exists"), KEPT);
        assert_eq!(fs::read_dir(self.whole.path()).expect("the parent directory exists").count(), 2);
    }
}
