//! The persistent state of named sandboxes: each has a record, a stack of layers with its changes, and snapshots. Several
//! processes may use the state concurrently, and it stays consistent if one of them is killed.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use agentd_sandboxes::{SandboxSettings, SaveMode, SandboxStore};
//! let state = SandboxStore::open("/var/lib/agentd/sandboxes".as_ref())?;
//! let (name, clean) = ("builder".parse()?, "clean".parse()?);
//! let record = state.create(&name, SandboxSettings::default())?;
//! println!("changes go to {:?}", state.layer_paths(&record).upper);
//! state.snapshot(&name, &clean, SaveMode::Commit)?;
//! state.restore(&name, &clean)?;
//! # Ok(())
//! # }
//! ```
//!
//! Terms: a *layer* is a tree of changes, as overlayfs writes them. The *upper* layer of a sandbox receives its changes. It is
//! *committed* when the sandbox gets a new upper layer. A committed layer never changes again, so any number of sandboxes and
//! snapshots may share it.
//!
//! Nothing here runs a command or mounts the root of a sandbox. The code that does so *holds* the layers during that time
//! ([`SandboxStore::hold`]), and decides how an upper layer in use is saved ([`SaveMode`]). Only volumes, which contain the
//! layers of sandboxes with a disk limit, are mounted here, in a private mount namespace ([`SandboxStore::open_with_volumes`]).
//! The trees of layers are hostile, because a payload wrote them: they are read without following links and without recursion to
//! an unlimited depth.

mod error;
mod layer;
mod layer_id;
mod mounts;
mod name;
mod record;
mod reserve;
mod state;
mod tree;
mod volume_id;

pub use agentd_core::DiskLayers;
pub use error::{Damage, StoreError};
pub use layer_id::{LayerId, NotALayerId};
pub use name::{Name, NotAName};
pub use record::{Record, SandboxSettings, Snapshot};
pub use state::{Collected, Disk, ForkSource, Hold, Lifetime, Lifetimes, Problem, SandboxStore, SaveMode, Squashed};
pub use tree::{Change, ChangeKind};
