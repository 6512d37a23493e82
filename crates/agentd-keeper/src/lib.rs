//! Named sandboxes that live across the invocations of their clients.
//!
//! One process for each user, the **keeper**, has all of that user's named sandboxes: it is started by the first client that needs it,
//! holds the sandboxes' processes, answers over a Unix socket that only that user can reach, and ends some seconds after nothing lives any
//! more and nobody asks. What a sandbox *is* lies on disk (`agentd_sandboxes`): when the keeper dies, the kernel and its launcher end every
//! process of its sandboxes, and the next keeper starts them again from there when they are next needed.
//!
//! Bytes of a command's streams never pass through the keeper: a client gets the descriptors.

mod client;
mod commands;
mod connection;
mod error;
mod files;
mod keeper;
mod live;
mod log;
mod protocol;
mod report;
mod serve;
mod ttl;

pub use agentd_kernel::mount::OwnMounts;
pub use client::{Client, Started};
pub use error::KeeperError;
pub use keeper::keep;
pub use log::path as log_path;
pub use protocol::{Doing, Status};
pub use report::Finding;
