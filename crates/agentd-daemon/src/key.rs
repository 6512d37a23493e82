//! The key of clients in other namespaces.
//!
//! The daemon serves a client in its own user and PID namespaces without a key, because no payload runs there. A client in other
//! namespaces (a rootless toolbox, `unshare --user`) may be a payload that reached the socket. Such a client must present a key: the
//! content of a file that only the user may read. No grant may contain the folder of the key or that of the socket, nor the place of
//! one that does not exist yet. Without a runtime directory of the user, both lie below the data folder.

use agentd_isolation::own_state;
use agentd_kernel::peer::{self, Peer, PeerError};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
};

/// The name of the file in agentd's cache folder. All daemons of a user have the same key.
const NAME: &str = "daemon.key";

const LENGTH: usize = 32;

/// A key as a client presents it. Without a key, all bytes are zero, so that [`crate::protocol::Hello`] always has the same
/// length.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Key([u8; LENGTH]);

impl Key {
    /// The value that a client without a key presents. It is never a valid key.
    pub(crate) const NONE: Self = Self([0; LENGTH]);

    /// Interprets the last bytes of a message as a key.
    pub(crate) fn at_end_of(message: &[u8]) -> Self {
        message.last_chunk().map_or(Self::NONE, |bytes| Self(*bytes))
    }

    /// Returns true for a value that no daemon accepts.
    pub(crate) fn is_none(&self) -> bool {
        self.0 == Self::NONE.0
    }

    /// Compares two keys in a time that does not depend on their bytes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |difference, (one, other)| difference | (one ^ other));
        std::hint::black_box(difference) == 0
    }

    /// Returns a new random key.
    fn random() -> io::Result<Self> {
        let mut bytes = Self::NONE.0;
        let mut done = 0;
        while done < LENGTH {
            done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(bytes))
    }

    /// Returns the key that a file contains, unless the content is damaged.
    fn parse(content: &[u8]) -> Option<Self> {
        let key = Self(content.try_into().ok()?);
        (!key.is_none()).then_some(key)
    }
}

/// Prints no byte of the key, because messages are logged in this form.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "Key(none)" } else { "Key(hidden)" })
    }
}

/// The key of the daemon, in the folder that the daemon's process can open.
pub(crate) struct DaemonKey {
    /// The key; the cause if there is none.
    pub key: io::Result<Key>,
    /// The path of its file, for messages.
    pub path: PathBuf,
}

/// Creates the key of this user's daemons, unless there is a valid one. A file that others can read is replaced: others may know
/// its content.
pub(crate) fn create() -> io::Result<()> {
    let folder = own_state::cache_folder().ok_or(io::ErrorKind::NotFound)?;
    if read(folder.as_fd()).is_ok() {
        return Ok(());
    }
    match own_state::create(folder.as_fd(), NAME, &Key::random()?.0) {
        // Another daemon has just created the key; or the file is damaged.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read(folder.as_fd()) {
            Ok(_) => Ok(()),
            Err(_) => own_state::replace(folder.as_fd(), NAME, &Key::random()?.0),
        },
        other => other,
    }
}

/// Reads the key of this user's daemons. The daemon reads the key for each client that needs one, so that no copy of the key is
/// in its memory when a launcher is forked from it.
pub(crate) fn of_daemon() -> DaemonKey {
    let Some(folder) = own_state::cache_folder() else {
        return DaemonKey { key: Err(io::ErrorKind::NotFound.into()), path: NAME.into() };
    };
    let path = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).unwrap_or_default();
    DaemonKey { key: read(folder.as_fd()), path: path.join(NAME) }
}

fn read(folder: BorrowedFd<'_>) -> io::Result<Key> {
    Key::parse(&own_state::read_secret(folder, NAME)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the key that a client presents to the daemon that listens on the other end of `socket`: none if the daemon needs none,
/// or runs as another user.
pub(crate) fn of_client(socket: BorrowedFd<'_>) -> Key {
    match peer::verify(socket) {
        Ok(Peer::Here) | Err(PeerError::Uid(_)) => Key::NONE,
        // A failure to inspect the daemon does not prove that it needs no key.
        Ok(Peer::Elsewhere(_)) | Err(_) => {
            own_state::cached_secret(NAME).and_then(|content| Key::parse(&content)).unwrap_or(Key::NONE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_equal_only_to_the_same_bytes() {
        let key = Key::random().unwrap();
        assert!(key.is(&key.clone()) && !key.is(&Key::random().unwrap()) && !key.is(&Key::NONE));
        for place in 0..LENGTH {
            let mut other = key.clone();
            other.0[place] ^= 1;
            assert!(!key.is(&other), "byte {place}");
        }
    }

    #[test]
    fn file_of_wrong_length_or_of_zeros_is_no_key() {
        for damaged in [&[][..], &[1; LENGTH - 1], &[1; LENGTH + 1], &[0; LENGTH]] {
            assert!(Key::parse(damaged).is_none());
        }
        assert!(Key::parse(&[1; LENGTH]).unwrap().is(&Key([1; LENGTH])));
    }

    #[test]
    fn key_is_not_printed() {
        assert_eq!(format!("{:?} {:?}", Key([7; LENGTH]), Key::NONE), "Key(hidden) Key(none)");
    }
}
