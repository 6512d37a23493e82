//! The folder of the keys and the audit log.

use crate::{
    key_ring::KeyRing,
    keys::{self, KeyError, KeyFolder, Keys},
    leaf::{AuditEvent, Label, Leaf, NoLabel},
    log::{AuditLog, LogError, LogReader, writer::Writer},
    time::Timestamp,
};
use std::path::{Path, PathBuf};

/// Keys and audit log of one installation, below the data folder of agentd.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// The reason why a key was not rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The keys cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The rotation could not be recorded. The old key stays in use.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The name of a key is too long to be recorded.
    #[error("rotate the signing key: {0}")]
    Label(#[from] NoLabel),
}

impl Records {
    /// Returns the records in a folder. Nothing is created.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    fn keys_folder(&self) -> PathBuf {
        self.folder.join("keys")
    }

    fn log_folder(&self) -> PathBuf {
        self.folder.join("audit")
    }

    /// Returns the keys. The first call on a machine makes a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn keys(&self) -> Result<Keys, KeyError> {
        self.lock_keys()?.open()
    }

    fn lock_keys(&self) -> Result<KeyFolder, KeyError> {
        agentd_disk::make_private(&self.folder).map_err(|source| KeyError::Folder { path: self.folder.clone(), source })?;
        KeyFolder::lock(&self.keys_folder())
    }

    /// Returns the public keys. Nothing is created.
    ///
    /// # Errors
    /// [`KeyError::None`] if no key was made yet, and the errors of reading them.
    pub fn ring(&self) -> Result<KeyRing, KeyError> {
        keys::read_ring(&self.keys_folder())
    }

    /// Opens the audit log for writing, and creates it if necessary.
    ///
    /// # Errors
    /// [`LogError::Busy`] if another process writes the log, and the errors of a damaged log.
    pub fn open_log(&self, keys: &Keys) -> Result<AuditLog, LogError> {
        AuditLog::start(Writer::open(&self.log_folder(), keys.signer.verifier(), vec![keys.signer.clone()])?)
    }

    /// Returns a reader of the audit log.
    pub fn reader(&self) -> LogReader {
        LogReader::new(&self.log_folder())
    }

    /// Replaces the signing key. The audit log records it, with the signatures of both keys. The rotation also works if the old
    /// private key is lost; only the new key signs then.
    ///
    /// # Errors
    /// [`RotateError`]. The old key stays in use.
    pub fn rotate(&self, principal: Label) -> Result<Keys, RotateError> {
        let folder = self.lock_keys()?;
        let old = match folder.open() {
            Err(KeyError::Secret(_) | KeyError::Exposed(_)) => None,
            keys => Some(keys?.signer),
        };
        let ring = self.ring()?;
        let Some(current) = ring.keys().last() else { return Err(KeyError::None(self.keys_folder()).into()) };
        let new = folder.make_next()?;
        let ids = [("new", new.signer.verifier()), ("old", &current.verifier)];
        let details = ids.map(|(name, key)| Ok::<_, NoLabel>((name.try_into()?, key.to_string().try_into()?)));
        let act = "key-rotated".try_into()?;
        let event = AuditEvent::Administrative { principal, act, details: details.into_iter().collect::<Result<_, _>>()? };
        let leaf = Leaf::new(Timestamp::now(), event).to_bytes().map_err(LogError::Leaf)?;
        let signers = old.into_iter().chain([new.signer.clone()]).collect();
        Writer::open(&self.log_folder(), &current.verifier, signers)?.commit(std::iter::once(leaf.as_slice()))?;
        Ok(folder.start(new)?)
    }
}
