//! Errors of reading an archive, and of unpacking the layer of an image.

use crate::bounds::Bound;
use rustix::io::Errno;
use std::{io, path::PathBuf};

/// The reason why a layer was not unpacked. Everything unpacked so far is inside the given directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The stream is not a readable archive.
    #[error("read the tar archive of the layer (plain, gzip or zstd): {0} — fetch or build the image again")]
    Archive(#[source] io::Error),
    /// The layer, or an archive that contains layers, exceeds a size limit.
    #[error("size limit exceeded: more than {max} {bound}{} — split the layer, or use a smaller image", at_path(.path))]
    TooLarge {
        /// The limit that was exceeded.
        bound: Bound,
        /// The value of that limit.
        max: u64,
        /// The entry that exceeded the limit, if the limit applies to single entries.
        path: Option<PathBuf>,
    },
    /// The name of an entry, or the target of a hard link, is not a valid path inside the layer.
    #[error("{path:?}: {why} — do not use this image: it is broken or hostile")]
    Name {
        /// The name as written in the archive.
        path: PathBuf,
        /// The problem.
        why: &'static str,
    },
    /// An entry lies below something that is not a directory, e.g. a symbolic link that leads elsewhere.
    #[error(
        "{path:?}: a parent directory is a symbolic link or not a directory — do not use this image: it is broken or hostile"
    )]
    Through {
        /// The name of the entry.
        path: PathBuf,
    },
    /// An entry has an unsupported type or feature.
    #[error("{path:?}: {what} is not supported — build the image again without this entry")]
    Unsupported {
        /// The name of the entry.
        path: PathBuf,
        /// The unsupported type or feature.
        what: &'static str,
    },
    /// A system call failed.
    #[error("{call} {path:?}: {errno}{}", remedy(*.errno))]
    System {
        /// The system call.
        call: &'static str,
        /// The entry.
        path: PathBuf,
        /// The errno of the call.
        #[source]
        errno: Errno,
    },
}

fn at_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" (at {path:?})")).unwrap_or_default()
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC | Errno::DQUOT => " — free space on the file system of the image store",
        Errno::NOTSUP => " — put the image store on a file system with extended attributes, such as ext4, xfs or btrfs",
        Errno::PERM | Errno::ACCESS => {
            " — the image store needs a file system on which its owner may create whiteouts and set attributes \
             (Linux 5.8 or later)"
        }
        _ => "",
    }
}

impl UnpackError {
    /// Converts an error from reading the stream: unwraps an [`UnpackError`] inside the [`io::Error`], or wraps any other error
    /// as [`Self::Archive`].
    pub fn from_stream(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => Self::Archive(error),
        }
    }
}

/// Adds the system call and the entry to an errno.
pub trait ErrnoContext<T> {
    /// Adds the context.
    ///
    /// # Errors
    /// [`UnpackError::System`].
    fn during(self, call: &'static str, path: &std::path::Path) -> Result<T, UnpackError>;
}

impl<T> ErrnoContext<T> for Result<T, Errno> {
    fn during(self, call: &'static str, path: &std::path::Path) -> Result<T, UnpackError> {
        self.map_err(|errno| UnpackError::System { call, path: path.to_owned(), errno })
    }
}
