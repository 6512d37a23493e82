//! What a named sandbox is on disk: its record, its stack of layers of changes, its snapshots. It is safe beside other processes, and
//! consistent whenever one of them is killed.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use agentd_sandboxes::{About, How, State};
//! let state = State::open("/var/lib/agentd/sandboxes".as_ref())?;
//! let (name, clean) = ("builder".parse()?, "clean".parse()?);
//! let record = state.create(&name, About::default())?;
//! println!("changes go to {:?}", state.layer_paths(&record).top);
//! state.snapshot(&name, &clean, How::Seal)?;
//! state.restore(&name, &clean)?;
//! # Ok(())
//! # }
//! ```
//!
//! The words: a *layer* is a tree of changes, as overlayfs writes them. The *top* of a sandbox takes its changes; it is *sealed* by
//! giving the sandbox another top, and from then on never changes, so that any number of sandboxes and snapshots may have it.
//!
//! Nothing here runs anything, or mounts a sandbox: whoever does *holds* the layers meanwhile ([`State::hold`]), and says how a top that is in use
//! is to be saved ([`How`]). What is mounted here is where layers lie whose room is limited, in a namespace that nobody else sees
//! ([`State::open_with_volumes`]). Trees of layers are hostile: a payload wrote them. They are read through no link and to no depth.

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
pub use error::{Damage, StateError};
pub use layer_id::{LayerId, NotALayerId};
pub use name::{Name, NotAName};
pub use record::{About, Record, Snapshot};
pub use state::{Collected, Disk, Hold, How, Of, Problem, Squashed, State};
pub use tree::{Change, Kind};
