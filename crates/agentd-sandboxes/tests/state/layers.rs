//! Creates trees as overlayfs writes them, and computes the merged view of a stack of trees in a simple way, for comparison.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Creates a whiteout of overlayfs.
pub fn whiteout(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// Makes a directory opaque.
pub fn opaque(path: &Path) {
    rustix::fs::setxattr(path, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
}

pub fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
}

pub fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::getxattr(path, "user.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
}

/// The merged view: for each path its type, mode and content.
pub type Shown = BTreeMap<PathBuf, String>;

/// Returns the merged view of `trees`, lowest first.
pub fn shown(trees: &[PathBuf]) -> Shown {
    let mut shown = Shown::new();
    for tree in trees {
        lay(tree, Path::new(""), &mut shown);
    }
    shown
}

/// Merges one directory of a tree into the view.
fn lay(tree: &Path, at: &Path, shown: &mut Shown) {
    for entry in fs::read_dir(tree.join(at)).unwrap() {
        let (real, path) = {
            let entry = entry.unwrap();
            (entry.path(), at.join(entry.file_name()))
        };
        let found = fs::symlink_metadata(&real).unwrap();
        let was_directory = shown.get(&path).is_some_and(|what| what.starts_with("directory"));
        if !(found.is_dir() && was_directory) || is_opaque(&real) {
            shown.retain(|below, _| !below.starts_with(&path));
        }
        let mode = found.mode() & 0o7777;
        let what = if is_whiteout(&real) {
            continue;
        } else if found.is_dir() {
            format!("directory {mode:o}")
        } else if found.is_symlink() {
            format!("link {:?}", fs::read_link(&real).unwrap())
        } else if found.is_file() {
            format!("file {mode:o} {:?}", fs::read_to_string(&real).unwrap())
        } else {
            format!("special {mode:o}")
        };
        shown.insert(path.clone(), what);
        if found.is_dir() {
            lay(tree, &path, shown);
        }
    }
}

/// Returns true if a tree has a whiteout in an opaque directory, where it hides nothing. Overlayfs would list it as a file. With
/// `alone`, the tree counts as opaque.
pub fn has_stray_whiteout(tree: &Path, alone: bool) -> bool {
    fs::read_dir(tree).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let is_directory = fs::symlink_metadata(&path).unwrap().is_dir();
        (alone && is_whiteout(&path)) || (is_directory && has_stray_whiteout(&path, alone || is_opaque(&path)))
    })
}
