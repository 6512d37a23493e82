//! Keeps copies of receipts and intents, which no sandbox can reach. The caller often writes a receipt to a directory that a
//! later command can change.

use crate::{digest::ContentDigest, records::Records};
use agentd_disk::{DiskError, NotPrivate, flush_directory, make_private};
use std::path::PathBuf;

/// The reason why a copy cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// Other users may access the folder of the copies.
    #[error("keep a copy of a receipt: {path:?}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: NotPrivate,
    },
    /// The copy cannot be written.
    #[error("keep a copy of a receipt: {0} — free space, or check the permissions of the folder")]
    Disk(#[from] DiskError),
}

impl Records {
    /// Keeps a copy of a receipt or an intent, durably. [`Records::kept`] returns its path.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn keep(&self, text: &str) -> Result<ContentDigest, KeepError> {
        let digest = ContentDigest::of(text.as_bytes());
        let (file, folder) = (self.kept(digest), self.kept_folder());
        make_private(&folder).map_err(|source| KeepError::Folder { path: folder.clone(), source })?;
        agentd_disk::write(&file, text.as_bytes(), &folder.join(format!("draft-{digest}")))?;
        flush_directory(&folder)?;
        Ok(digest)
    }

    /// Returns the path of the copy of the content with this digest, whether such a copy exists or not.
    pub fn kept(&self, digest: ContentDigest) -> PathBuf {
        self.kept_folder().join(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn copy_is_found_by_its_digest_and_only_its_owner_can_read_it() {
        let place = tempfile::tempdir().unwrap();
        let records = Records::at(&place.path().join("records"));
        for text in ["first", "second", "first"] {
            let digest = records.keep(text).unwrap();
            assert_eq!(digest, ContentDigest::of(text.as_bytes()));
            assert_eq!(fs::read_to_string(records.kept(digest)).unwrap(), text);
            assert_eq!(fs::metadata(records.kept(digest)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let folder = records.kept_folder();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(records.keep("third").unwrap_err().to_string().contains("run chmod 700 on it"));
    }
}
