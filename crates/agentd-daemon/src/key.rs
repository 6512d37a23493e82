//! The key of clients in other namespaces.
//!
//! The daemon serves a client in its own user and PID namespaces without a key, because no payload runs there. A client in other
//! namespaces (a rootless toolbox, `unshare --user`) may be a payload that reached the socket, and a process that listens there
//! may be a payload. Client and daemon then prove to each other that they have the key: the content of a file that only the user
//! may read. No grant may contain the folder of the key or the folder of the socket, not even before the folder exists.
//! Without a runtime directory of the user, both lie below the data folder.
//!
//! Every copy of the key in memory is overwritten when it is dropped.

use crate::handshake::{Nonces, Side, Tag, fill_randomly};
use agentd_isolation::own_state;
use std::{
    fmt, fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
};
use zeroize::Zeroizing;

/// The name of the file in the folder of proofs and key. All daemons of a user have the same key.
pub(crate) const NAME: &str = "daemon.key";

const LENGTH: usize = 32;

/// The key. It is never all zeros.
#[derive(Clone)]
pub(crate) struct Key(Zeroizing<[u8; LENGTH]>);

impl Key {
    /// Returns a new random key.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        fill_randomly(&mut *bytes)?;
        Ok(Self(bytes))
    }

    /// Returns the key that a file contains, unless the content is damaged.
    fn parse(content: &[u8]) -> Option<Self> {
        if content.len() != LENGTH || content.iter().all(|byte| *byte == 0) {
            return None;
        }
        let mut bytes = Zeroizing::new([0; LENGTH]);
        bytes.copy_from_slice(content);
        Some(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

/// Prints no byte of the key, because messages are logged in this form.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// The MACs of a connection.
pub(crate) struct Tags {
    /// The proof that the daemon sends.
    pub daemon: Tag,
    /// The proof that the client must send.
    pub client: Tag,
}

/// The key of the daemon cannot be read.
#[derive(Debug)]
pub(crate) struct NoKey {
    /// The path of its file, for messages.
    pub path: PathBuf,
    pub cause: io::Error,
}

/// Creates the key of this user's daemons, unless there is a valid one. A file that other users can read is replaced, because
/// they may know its content.
pub(crate) fn create() -> io::Result<()> {
    let folder = own_state::trusted_folder().ok_or(io::ErrorKind::NotFound)?;
    if read(folder.as_fd()).is_ok() {
        return Ok(());
    }
    match own_state::create(folder.as_fd(), NAME, Key::random()?.bytes()) {
        // Another daemon has just created the key; or the file is damaged.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read(folder.as_fd()) {
            Ok(_) => Ok(()),
            Err(_) => own_state::replace(folder.as_fd(), NAME, Key::random()?.bytes()),
        },
        other => other,
    }
}

/// Computes the MACs of a connection with the key of this user's daemons. The key is read for each connection that needs it.
/// Therefore, no copy of it is in the daemon's memory when a launcher is forked, and removing the file revokes the key.
pub(crate) fn tags(nonces: &Nonces) -> Result<Tags, NoKey> {
    let folder = own_state::trusted_folder().ok_or_else(|| NoKey { path: NAME.into(), cause: io::ErrorKind::NotFound.into() })?;
    let key = read(folder.as_fd()).map_err(|cause| NoKey { path: path_in(folder.as_fd()), cause })?;
    Ok(Tags { daemon: nonces.tag(&key, Side::Daemon), client: nonces.tag(&key, Side::Client) })
}

/// Returns the path of the daemon's key, for messages.
pub(crate) fn path() -> PathBuf {
    own_state::trusted_folder().map_or_else(|| NAME.into(), |folder| path_in(folder.as_fd()))
}

fn path_in(folder: BorrowedFd<'_>) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).unwrap_or_default().join(NAME)
}

fn read(folder: BorrowedFd<'_>) -> io::Result<Key> {
    Key::parse(&own_state::read_secret(folder, NAME)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the key of this user as a client finds it, and its path; `None` if the client finds none.
pub(crate) fn of_client() -> Option<(PathBuf, Key)> {
    let (path, content) = own_state::read_trusted_secret(NAME)?;
    Some((path, Key::parse(&content)?))
}

/// Returns the paths at which a client looks for the key, for messages.
pub(crate) fn paths_of_client() -> String {
    let paths = own_state::trusted_paths(NAME).into_iter().map(|path| path.display().to_string());
    paths.collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_wrong_length_or_of_zeros_is_not_a_key() {
        for damaged in [&[][..], &[1; LENGTH - 1], &[1; LENGTH + 1], &[0; LENGTH]] {
            assert!(Key::parse(damaged).is_none());
        }
        assert_eq!(Key::parse(&[1; LENGTH]).unwrap().bytes(), &[1; LENGTH]);
    }

    #[test]
    fn key_is_not_printed() {
        assert_eq!(format!("{:?}", Key::parse(&[7; LENGTH]).unwrap()), "Key(hidden)");
    }

    #[test]
    fn dropped_key_is_overwritten_in_memory() {
        // Does not compile for a type that is not overwritten.
        fn is_overwritten(_: &impl zeroize::ZeroizeOnDrop) {}
        is_overwritten(&Key::random().unwrap().0);
    }
}
