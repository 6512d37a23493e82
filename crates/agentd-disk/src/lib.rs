//! File-system building blocks of the image store and the sandbox store. Both stores stay consistent after a process dies or the
//! power fails: each atomic step takes a lock, files are complete or absent, and staging directories are removed with their
//! creator. The crate also removes untrusted trees.

mod directory;
mod durable;
mod erase;
mod error;
mod lock;
mod owner;
mod private;
mod scratch;
mod staging;
mod trusted;

pub use directory::{lstat, names};
pub use durable::{entries, flush_all, flush_directory, make_folder, read, write};
pub use erase::{empty, erase};
pub use error::{DiskError, FileContext};
pub use lock::Lock;
pub use owner::{is_ambiguous_uid, is_own_uid};
pub use private::{NotPrivate, make_private};
pub use scratch::Scratch;
pub use staging::{Staging, abandoned, pinned};
pub use trusted::{TrustError, TrustedFile, read_trusted_file, read_trusted_folder};
