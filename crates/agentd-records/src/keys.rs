//! The key that signs records, and the public keys of this installation.
//!
//! The first use generates the key. A rotation generates another key, deletes the old private key, and keeps the old public key
//! with the time of its replacement, so that older records can still be verified.

use crate::{
    key_ring::{KeyRing, MAX_RING, PublicKey, RingError},
    note::{NoteError, Signer},
    time::Timestamp,
};
use agentd_disk::{DiskError, FileContext as _, Lock, NotPrivate};
use data_encoding::{BASE64, HEXLOWER};
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// The file of the public keys, in the form of [`KeyRing`]; its last key is the current one.
const PUBLIC: &str = "public";
/// The beginning of the name of a file with a private key. The identifier of the key follows.
const SECRET: &str = "secret-";
const LOCK: &str = "lock";
/// The beginning of a private key's text, as in `golang.org/x/mod/sumdb/note`.
const PREFIX: &str = "PRIVATE+KEY+";

/// The reason why keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file operation failed.
    #[error("signing keys: {0}")]
    Disk(#[from] DiskError),
    /// Other users may access the folder of the keys.
    #[error("signing keys: {path:?}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: NotPrivate,
    },
    /// Other users can read or replace a private key.
    #[error(
        "signing keys: {0:?} belongs to another user, or other users can access it — run `agentd signing-key rotate`, because they may know the key"
    )]
    Exposed(PathBuf),
    /// A private key is missing or damaged.
    #[error("signing keys: {0:?} is missing or damaged — restore it from a backup, or run `agentd signing-key rotate`")]
    Secret(PathBuf),
    /// The file of the public keys is damaged.
    #[error("signing keys: {path:?}: {source} — restore the file from a backup")]
    Public {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: RingError,
    },
    /// The file of the public keys has no space for another key.
    #[error(
        "signing keys: the file of the public keys would exceed {MAX_RING} bytes — keep the folder of the keys and the audit log as \
         a copy, then start again with another AGENTD_DATA_DIR"
    )]
    Full,
    /// There are no keys.
    #[error("signing keys: {0:?} does not exist: nothing was signed on this machine — name a file of public keys with --key")]
    None(PathBuf),
    /// A key could not be generated.
    #[error("signing keys: generate a key: {0}")]
    Make(#[from] NoteError),
    /// The system has no random bytes.
    #[error("signing keys: generate a key: the system returned no random bytes — check that getrandom(2) works")]
    Random,
}

/// The keys of this installation.
#[derive(Debug)]
pub struct Keys {
    /// The public keys, the current one last.
    pub ring: KeyRing,
    /// The current private key.
    pub signer: Arc<Signer>,
}

/// A stored key that is not in use yet.
pub(crate) struct NewKey {
    pub signer: Arc<Signer>,
    /// The public keys once the key is in use.
    ring: KeyRing,
}

/// The locked folder of the keys.
pub(crate) struct KeyFolder {
    path: PathBuf,
    _lock: Lock,
}

impl KeyFolder {
    /// Creates the folder if necessary, and locks it.
    ///
    /// # Errors
    /// [`KeyError`] if the folder cannot be created, or others may access it.
    pub fn lock(path: &Path) -> Result<Self, KeyError> {
        agentd_disk::make_private(path).map_err(|source| KeyError::Folder { path: path.to_path_buf(), source })?;
        Ok(Self { path: path.to_path_buf(), _lock: Lock::take(&path.join(LOCK))? })
    }

    /// Returns the keys, and generates a key if there is none yet. Removes a private key that an interrupted rotation left.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(&self) -> Result<Keys, KeyError> {
        let ring = match read_ring(&self.path) {
            Err(KeyError::None(_)) => return self.start(self.make(None)?),
            ring => ring?,
        };
        let signer = Arc::new(self.read_secret(&ring)?);
        self.remove_secrets_except(&signer)?;
        Ok(Keys { ring, signer })
    }

    /// Generates and stores a key that will replace the current one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn make_next(&self) -> Result<NewKey, KeyError> {
        self.make(Some(read_ring(&self.path)?))
    }

    /// Begins to use a key, and removes the previous private key.
    ///
    /// # Errors
    /// [`KeyError::Disk`].
    pub fn start(&self, key: NewKey) -> Result<Keys, KeyError> {
        self.write(PUBLIC, key.ring.to_string().as_bytes())?;
        self.remove_secrets_except(&key.signer)?;
        Ok(Keys { ring: key.ring, signer: key.signer })
    }

    fn make(&self, old: Option<KeyRing>) -> Result<NewKey, KeyError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        SystemRandom::new().fill(&mut *seed).map_err(|_| KeyError::Random)?;
        let name = match old.as_ref().and_then(|ring| ring.keys().last()) {
            Some(current) => current.verifier.key_id().name.clone(),
            None => new_name()?,
        };
        let signer = Signer::new(&name, &seed)?;
        let ring = old.unwrap_or_default().succeeded_by(signer.verifier().clone(), Timestamp::now());
        if ring.to_string().len() > MAX_RING {
            return Err(KeyError::Full);
        }
        let encoded = Zeroizing::new(BASE64.encode(&Zeroizing::new([&[1][..], &seed[..]].concat())));
        let text = Zeroizing::new(format!("{PREFIX}{}+{}\n", signer.verifier().key_id(), *encoded));
        self.write(&secret_name(&signer), text.as_bytes())?;
        Ok(NewKey { signer: Arc::new(signer), ring })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), KeyError> {
        agentd_disk::write(&self.path.join(name), bytes, &self.path.join("draft"))?;
        Ok(agentd_disk::flush_directory(&self.path)?)
    }

    fn read_secret(&self, ring: &KeyRing) -> Result<Signer, KeyError> {
        let current = ring.keys().last().map(|key| &key.verifier);
        let name = current.map(|key| HEXLOWER.encode(&key.key_id().id)).unwrap_or_default();
        let path = self.path.join(format!("{SECRET}{name}"));
        let damaged = || KeyError::Secret(path.clone());
        let found = fs::symlink_metadata(&path).map_err(|_| damaged())?;
        if !found.is_file() || !agentd_disk::is_own_uid(found.uid()) || found.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed(path));
        }
        let text = Zeroizing::new(fs::read_to_string(&path).during("read", &path)?);
        let encoded = text.strip_prefix(PREFIX).and_then(|rest| rest.trim_end().splitn(3, '+').nth(2)).ok_or_else(damaged)?;
        let bytes = Zeroizing::new(BASE64.decode(encoded.as_bytes()).map_err(|_| damaged())?);
        let seed: Zeroizing<[u8; 32]> = match bytes.split_first() {
            Some((1, seed)) => Zeroizing::new(seed.try_into().map_err(|_| damaged())?),
            _ => return Err(damaged()),
        };
        let current = current.ok_or_else(damaged)?;
        let signer = Signer::new(&current.key_id().name, &seed)?;
        if signer.verifier() == current { Ok(signer) } else { Err(damaged()) }
    }

    fn remove_secrets_except(&self, signer: &Signer) -> Result<(), KeyError> {
        let kept = secret_name(signer);
        for path in agentd_disk::entries(&self.path)? {
            let is_old = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SECRET) && *name != *kept);
            if is_old {
                fs::remove_file(&path).during("remove", &path)?;
            }
        }
        Ok(agentd_disk::flush_directory(&self.path)?)
    }
}

/// Returns the public keys in the folder of the keys. Nothing is created.
///
/// # Errors
/// [`KeyError::None`] if there are no keys, and the errors of reading them.
pub(crate) fn read_ring(folder: &Path) -> Result<KeyRing, KeyError> {
    let path = folder.join(PUBLIC);
    let Some(bytes) = agentd_disk::read(&path)? else { return Err(KeyError::None(path)) };
    let ring = KeyRing::parse(&bytes).and_then(KeyRing::of_one_installation);
    ring.map_err(|source| KeyError::Public { path, source })
}

/// Returns the name of the keys and of the log: it differs between installations.
fn new_name() -> Result<String, KeyError> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| KeyError::Random)?;
    Ok(format!("agentd/{}", HEXLOWER.encode(&Sha256::digest(random)[..8])))
}

fn secret_name(signer: &Signer) -> String {
    format!("{SECRET}{}", HEXLOWER.encode(&signer.verifier().key_id().id))
}

impl KeyRing {
    /// Adds the key that is used from `now` on; the key before it is retired.
    fn succeeded_by(mut self, verifier: crate::note::VerifierKey, now: Timestamp) -> Self {
        if let Some(last) = self.last_mut() {
            last.until = Some(now);
        }
        self.push(PublicKey { verifier, from: now, until: None });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_that_would_exceed_the_file_of_public_keys_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("keys");
        let folder = KeyFolder::lock(&path).unwrap();
        let mut ring = folder.open().unwrap().ring;
        let name = ring.keys()[0].verifier.key_id().name.clone();
        for number in 0_u32.. {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&number.to_ne_bytes());
            let next = ring.clone().succeeded_by(Signer::new(&name, &seed).unwrap().verifier().clone(), Timestamp::now());
            if next.to_string().len() > MAX_RING {
                break;
            }
            ring = next;
        }
        fs::write(path.join(PUBLIC), ring.to_string()).unwrap();
        let files = || fs::read_dir(&path).unwrap().count();
        let before = files();
        let refused = folder.make_next().err().unwrap();
        assert!(matches!(refused, KeyError::Full), "{refused}");
        assert_eq!(files(), before);
        assert_eq!(read_ring(&path).unwrap().to_string(), ring.to_string());
    }
}
