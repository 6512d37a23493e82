//! Why a layer was not unpacked.

use super::bounds::Bound;
use rustix::io::Errno;
use std::{io, path::PathBuf};

/// Why a layer was not unpacked. What had been unpacked of it is inside the directory that was given, nowhere else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The stream is not a readable archive.
    #[error("the layer is not a readable tar archive (plain, gzip or zstd): {0} — fetch or build the image again")]
    Archive(#[source] io::Error),
    /// The layer, or the archive that holds layers, is bigger than it may be.
    #[error("it holds more than {most} {bound}{} — split it, or take a smaller image", at(.path))]
    TooLarge {
        /// The dimension.
        bound: Bound,
        /// Its limit.
        most: u64,
        /// The entry that went beyond, when it was one.
        path: Option<PathBuf>,
    },
    /// The name of an entry, or the target of a hard link, is no place inside the layer.
    #[error("{path:?}: {why} — the image is broken or hostile; do not use it")]
    Name {
        /// The name as it was written.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An entry lies below something that is not a directory, e.g. a symbolic link that leads elsewhere.
    #[error(
        "{path:?} lies below a symbolic link or another file that is no directory — the image is broken or hostile; do not use it"
    )]
    Through {
        /// The name of the entry.
        path: PathBuf,
    },
    /// An entry of a kind that this program does not unpack.
    #[error("{path:?}: {what} — build the image again without it")]
    Unsupported {
        /// The name of the entry.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file system refused.
    #[error("{call} {path:?}: {errno}{}", remedy(*.errno))]
    System {
        /// The call.
        call: &'static str,
        /// The entry.
        path: PathBuf,
        /// Its error.
        errno: Errno,
    },
}

fn at(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" (at {path:?})")).unwrap_or_default()
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC | Errno::DQUOT => " — free some space where the store is",
        Errno::NOTSUP => " — put the store on a file system with extended attributes, such as ext4, xfs or btrfs",
        Errno::PERM | Errno::ACCESS => {
            " — the store needs a file system that lets its owner make whiteouts and set attributes (Linux 5.8 or later)"
        }
        _ => "",
    }
}

impl UnpackError {
    /// An error of reading the stream: one of ours that travelled through [`io::Error`], or the stream's own.
    pub(crate) fn from_stream(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => Self::Archive(error),
        }
    }
}

/// Names the call and the entry of an errno.
pub(super) trait At<T> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, UnpackError>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, call: &'static str, path: &std::path::Path) -> Result<T, UnpackError> {
        self.map_err(|errno| UnpackError::System { call, path: path.to_owned(), errno })
    }
}
