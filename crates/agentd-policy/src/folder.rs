//! Reads policies from a folder that nobody else can change.

use crate::error::PolicyError;
use agentd_disk::{TrustError, TrustedFile, read_trusted_file, read_trusted_folder};
use std::path::Path;

/// A policy file that was read.
pub type PolicyFile = TrustedFile;

/// Reads all files of the folder whose names end in `.cedar`, in the order of their names.
///
/// # Errors
/// [`PolicyError`] if somebody other than root and this user may change a file, the folder or a directory above it; if a file is
/// a link or not a regular file; if there is no such file.
pub fn read_folder(folder: &Path) -> Result<Vec<PolicyFile>, PolicyError> {
    let files = read_trusted_folder(folder, "cedar")?;
    if files.is_empty() { Err(PolicyError::Empty(folder.to_owned())) } else { Ok(files) }
}

/// Reads one policy file, with the checks of [`read_folder`].
///
/// # Errors
/// As for [`read_folder`].
pub fn read_file(path: &Path) -> Result<PolicyFile, PolicyError> {
    Ok(read_trusted_file(path)?)
}

impl From<TrustError> for PolicyError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Disk(error) => error.into(),
            TrustError::Untrusted { path, problem } => Self::Untrusted { path, problem },
            TrustError::TooLarge { path, limit } => Self::TooLarge { path, limit },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, Mode};
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("p")).unwrap();
        fs::write(place.path().join("p/a.cedar"), "text").unwrap();
        for (path, mode) in [("p", 0o700), ("p/a.cedar", 0o600)] {
            fs::set_permissions(place.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        place
    }

    fn refused(place: &tempfile::TempDir) -> String {
        read_folder(&place.path().join("p")).unwrap_err().to_string()
    }

    #[test]
    fn policy_files_are_read_in_the_order_of_their_names() {
        let place = place();
        fs::write(place.path().join("p/README"), "no policy").unwrap();
        let folder = place.path().join("p");
        let files = read_folder(&folder).unwrap();
        let name = folder.join("a.cedar").display().to_string();
        assert_eq!(files, [PolicyFile { name, text: "text".to_owned() }]);
        assert_eq!(read_file(&folder.join("a.cedar")).unwrap(), files[0]);
        fs::remove_file(folder.join("a.cedar")).unwrap();
        assert!(refused(&place).contains("no file name in it ends in .cedar"));
    }

    #[test]
    fn folder_or_file_that_others_may_write_is_refused() {
        for (path, mode) in [("p", 0o770), ("p", 0o707), ("p/a.cedar", 0o620), ("p/a.cedar", 0o602), ("", 0o777)] {
            let place = place();
            fs::set_permissions(place.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
            assert!(refused(&place).contains("chmod go-w"), "{path} {mode:o}");
        }
    }

    #[test]
    fn sticky_directory_above_is_accepted() {
        let place = place();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        read_folder(&place.path().join("p")).unwrap();
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let place = place();
        let file = place.path().join("p/a.cedar");
        fs::hard_link(&file, place.path().join("other")).unwrap();
        assert!(refused(&place).contains("hard links"));
        fs::remove_file(&file).unwrap();
        symlink("../other", &file).unwrap();
        assert!(refused(&place).contains("symbolic link"));
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(refused(&place).contains("not a regular file"));
        symlink("p", place.path().join("link")).unwrap();
        let error = read_folder(&place.path().join("link")).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }

    #[test]
    fn file_above_the_limit_or_not_utf8_is_refused() {
        let place = place();
        fs::write(place.path().join("p/a.cedar"), " ".repeat(1 << 20)).unwrap();
        read_folder(&place.path().join("p")).unwrap();
        fs::write(place.path().join("p/a.cedar"), " ".repeat((1 << 20) + 1)).unwrap();
        assert!(refused(&place).contains("more than 1 MiB"));
        fs::write(place.path().join("p/a.cedar"), [0xff]).unwrap();
        assert!(refused(&place).contains("UTF-8"));
    }

    mod as_root {
        use super::*;

        #[test]
        fn foreign_owner_is_refused() {
            for path in ["", "p", "p/a.cedar"] {
                let place = place();
                std::os::unix::fs::chown(place.path().join(path), Some(4321), None).unwrap();
                assert!(refused(&place).contains("belongs to another user"), "{path}");
            }
        }
    }
}
