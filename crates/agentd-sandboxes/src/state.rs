//! The directory of all sandboxes and the operations on it.
//!
//! ```text
//! root/                      the store, with the mode 0700
//! ├── lock                   held (flock) during each atomic step, and never for long
//! ├── named/<name>/          a sandbox: `record.json`, and `log` for the process that runs the sandbox
//! ├── layers/<id>/           a layer: `tree` and `work`, or a link to a layer in a volume
//! ├── volumes/<id>/          a volume with the layers of a sandbox with a disk limit: `image`, and its mount point `at`
//! ├── staging/<id>/          files being created or removed, or pins of layers in use; locked (flock) by the creator
//! └── promised/              sandboxes of an unfinished fork; the next process that takes `lock` completes the fork
//! ```
//!
//! **Crash consistency.** A layer, a sandbox and each change of its record are created by one `rename`. Layers come first and
//! records after, so everything that a record names exists. [`SandboxStore::collect`] removes layers that no record names.
//! Everything else is in a staging directory. The next [`SandboxStore::open`] removes the staging directories whose creator is
//! dead, because the kernel has released their locks.
//!
//! **Concurrency.** Long work is done without the lock, on layers that are pinned in a staging directory. Then the record is read
//! again under the lock, and changed only if the work is still valid for it.
//!
//! **Power failure.** No record and no layer of a record is lost. The *contents* of a layer reach the disk when the kernel writes
//! them back, as for all files: some tens of seconds after a payload wrote them. A snapshot does not wait for that, because the
//! wait would grow with the amount of data.

mod collect;
mod commit;
mod diff;
mod directory;
mod fork;
mod fsck;
mod hold;
mod journal;
mod lifetimes;
mod named;
mod restore;
mod run;
mod snapshot;
mod squash;
mod volumes;

pub use collect::Collected;
pub use commit::SaveMode;
pub use directory::SandboxStore;
pub use fork::ForkSource;
pub use fsck::Problem;
pub use hold::Hold;
pub use lifetimes::{Lifetime, Lifetimes};
pub use squash::Squashed;
pub use volumes::Disk;
