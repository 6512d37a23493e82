//! The folder of the keys and the audit log.

use crate::{
    key_ring::KeyRing,
    keys::{self, KeyError, KeyFolder, Keys},
    label::{InvalidLabel, Label},
    leaf::{AuditEvent, Leaf},
    log::{AuditLog, LogError, LogReader, writer::Writer},
    time::Timestamp,
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The maximum time to wait for other processes that write the log.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The time between two attempts to lock the log.
const PAUSE: Duration = Duration::from_millis(10);

/// Keys and audit log of one installation, below the data folder of agentd.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// The reason why keys or log cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The keys cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The log cannot be written. If a key was to be replaced, the old key stays in use.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The name of a key is too long to be recorded.
    #[error("rotate the signing key: {0}")]
    Label(#[from] InvalidLabel),
}

/// The keys and the log, locked for one commit. No key is replaced before the leaves are recorded.
pub struct Recorder {
    keys: Keys,
    writer: Writer,
    _folder: KeyFolder,
}

impl Recorder {
    /// Returns the keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Records a leaf. Returns its index when the leaf is durable.
    ///
    /// # Errors
    /// [`LogError`]. It is unknown whether the leaf was recorded.
    pub fn record(self, leaf: &Leaf) -> Result<u64, LogError> {
        self.record_all(std::slice::from_ref(leaf))
    }

    /// Records leaves at once. Returns the index of the first when all leaves are durable.
    ///
    /// # Errors
    /// [`LogError`]. It is unknown whether the leaves were recorded.
    pub fn record_all(mut self, leaves: &[Leaf]) -> Result<u64, LogError> {
        let index = self.writer.size();
        let bytes = leaves.iter().map(Leaf::to_bytes).collect::<Result<Vec<_>, _>>()?;
        self.writer.commit(bytes.iter().map(Vec::as_slice))?;
        Ok(index)
    }
}

impl Records {
    /// Returns the records in a folder. Nothing is created.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    fn keys_folder(&self) -> PathBuf {
        self.folder.join("keys")
    }

    pub(crate) fn kept_folder(&self) -> PathBuf {
        self.folder.join("kept")
    }

    fn log_folder(&self) -> PathBuf {
        self.folder.join("audit")
    }

    /// Returns the keys. The first call in an installation generates a key.
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
    /// [`KeyError::None`] if no key has been generated yet, and the errors of reading the keys.
    pub fn ring(&self) -> Result<KeyRing, KeyError> {
        keys::read_ring(&self.keys_folder())
    }

    /// Locks the keys and the log to record one leaf. Waits up to 10 seconds for other processes that write the log.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn recorder(&self) -> Result<Recorder, RecordsError> {
        retried(|| {
            let folder = self.lock_keys()?;
            let keys = folder.open()?;
            let writer = Writer::open(&self.log_folder(), keys.signer.verifier(), vec![keys.signer.clone()])?;
            Ok(Recorder { keys, writer, _folder: folder })
        })
    }

    /// Opens the audit log for any number of leaves, and creates it if necessary. No key can be replaced while the log is open.
    ///
    /// # Errors
    /// As for [`Records::recorder`].
    pub fn open_log(&self) -> Result<AuditLog, RecordsError> {
        let Recorder { keys, writer, .. } = self.recorder()?;
        Ok(AuditLog::start(writer, keys)?)
    }

    /// Returns a reader of the audit log.
    pub fn reader(&self) -> LogReader {
        LogReader::new(&self.log_folder())
    }

    /// Replaces the signing key. The audit log records the rotation, with the signatures of both keys. If the old private key is
    /// lost or was exposed, only the new key signs.
    ///
    /// # Errors
    /// [`RecordsError`]. The old key stays in use.
    pub fn rotate(&self, principal: &Label) -> Result<Keys, RecordsError> {
        retried(|| self.try_rotate(principal.clone()))
    }

    fn try_rotate(&self, principal: Label) -> Result<Keys, RecordsError> {
        let folder = self.lock_keys()?;
        let old = match folder.open() {
            Err(KeyError::Secret(_) | KeyError::Exposed(_)) => None,
            keys => Some(keys?.signer),
        };
        let ring = self.ring()?;
        let Some(current) = ring.keys().last() else { return Err(KeyError::None(self.keys_folder()).into()) };
        let new = folder.make_next()?;
        let ids = [("new", new.signer.verifier()), ("old", &current.verifier)];
        let details = ids.map(|(name, key)| Ok::<_, InvalidLabel>((name.try_into()?, key.to_string().try_into()?)));
        let act = "key-rotated".try_into()?;
        let event = AuditEvent::Administrative { principal, act, details: details.into_iter().collect::<Result<_, _>>()? };
        let leaf = Leaf::new(Timestamp::now(), event).to_bytes().map_err(LogError::Leaf)?;
        let signers = old.into_iter().chain([new.signer.clone()]).collect();
        Writer::open(&self.log_folder(), &current.verifier, signers)?.commit(std::iter::once(leaf.as_slice()))?;
        Ok(folder.start(new)?)
    }
}

/// Repeats `attempt` while another process writes the log, up to [`MAX_WAIT`].
fn retried<T>(mut attempt: impl FnMut() -> Result<T, RecordsError>) -> Result<T, RecordsError> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(RecordsError::Log(LogError::Busy(_))) if begun.elapsed() < MAX_WAIT => std::thread::sleep(PAUSE),
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests;
