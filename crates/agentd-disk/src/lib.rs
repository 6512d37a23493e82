//! What the stores of images and of sandboxes are made with, so that they are whole whenever a process dies or the power goes: a lock for each
//! step that must be one, files that are whole or absent, staging directories that go with their maker, and the removal of trees that
//! strangers made.

mod directory;
mod durable;
mod erase;
mod error;
mod lock;
mod private;
mod staging;

pub use directory::{look, names};
pub use durable::{entries, flush_all, flush_directory, make_folder, read, write};
pub use erase::{empty, erase};
pub use error::DiskError;
pub use lock::Lock;
pub use private::{NotPrivate, make_private};
pub use staging::{Staging, abandoned, pinned};
