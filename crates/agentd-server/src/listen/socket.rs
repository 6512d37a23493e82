//! The Unix socket on which one daemon of a user listens.

use agentd_disk::{DiskError, Lock, NotPrivate, make_private};
use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// The file whose lock the daemon that listens holds.
const LOCK: &str = "lock";

/// The reason why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The path has no directory.
    #[error("listen: {0}: not the absolute path of a file — name for example /run/user/1000/agentd/agentd.sock")]
    Path(PathBuf),
    /// The directory of the socket is not private.
    #[error("listen: {0}")]
    NotPrivate(#[from] NotPrivate),
    /// The lock cannot be taken.
    #[error("listen: {0}")]
    Lock(#[from] DiskError),
    /// Another daemon listens.
    #[error("listen: {0}: another agentd listens there — stop it first, or name another socket")]
    InUse(PathBuf),
    /// The socket cannot be created.
    #[error("listen: {path}: {source} — use another path, of at most 107 bytes, on a local file system")]
    Socket {
        /// The path of the socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A Unix socket that listens. Its file is removed when the value is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Held as long as this daemon listens, so that no other daemon removes the file.
    _lock: Lock,
}

impl UnixSocket {
    /// Listens on `path`. Its directory is created with mode 0700; an existing one must be private to this user. The file of a
    /// daemon that was killed is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let folder = path.parent().filter(|folder| path.is_absolute() && folder.parent().is_some());
        let folder = folder.ok_or_else(|| ListenError::Path(path.to_owned()))?;
        make_private(folder)?;
        let lock = Lock::try_take(&folder.join(LOCK))?.ok_or_else(|| ListenError::InUse(path.to_owned()))?;
        let failed = |source| ListenError::Socket { path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // The directory protects the socket already.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // The lock is still held, so the file is that of this socket.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[tokio::test]
    async fn socket_of_a_live_daemon_is_kept_and_that_of_a_killed_one_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("private/agentd.sock");
        let first = UnixSocket::bind(&path).unwrap();
        assert!(matches!(UnixSocket::bind(&path), Err(ListenError::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok());
        // A killed daemon leaves the file, and the kernel releases its lock.
        let copy = root.path().join("private/copy");
        std::fs::hard_link(&path, &copy).unwrap();
        drop(first);
        assert!(!path.exists());
        std::fs::rename(&copy, &path).unwrap();
        let second = UnixSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
    }

    #[tokio::test]
    async fn socket_in_a_directory_that_others_may_use_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("shared");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(UnixSocket::bind(&folder.join("agentd.sock")), Err(ListenError::NotPrivate(_))));
        for path in ["agentd.sock", "/agentd.sock", "/"] {
            assert!(matches!(UnixSocket::bind(Path::new(path)), Err(ListenError::Path(_))), "{path}");
        }
    }
}
