//! Named sandboxes, whose processes outlive the invocations of their clients.
//!
//! For each user, one process keeps all named sandboxes: the **daemon** (`agentd daemon`). The first client that needs the daemon
//! starts it. The daemon holds the sandboxes' processes and answers over a Unix socket that only its user can reach. It ends some
//! seconds after the last sandbox process and the last request, unless a sandbox has a time to live.
//!
//! The state of a sandbox is on disk (`agentd_sandboxes`). When the daemon dies, the kernel and the daemon's launcher end every
//! process of its sandboxes. The next daemon starts a sandbox again from disk when the sandbox is next needed.
//!
//! A client receives the descriptors of a command's streams, so their data does not pass through the daemon. The exception is a
//! detached command, whose output the daemon writes to the log.
//!
//! - `client`, `started` and `control` are the client's side. `connect` finds the daemon through its `folder`, and verifies it;
//!   `protocol`, `connection` and `report` are the messages.
//! - `admission` decides which clients are served. `handshake` is the proof that client and daemon have the `key` if they are in
//!   different namespaces, and `waiting` limits the number of clients that have not yet sent the proof.
//! - `boundary` makes sure that the boundary of sandboxes is proven before they are used.
//! - `process` is the daemon's process. `serve` receives the requests; `lifecycle`, `commands`, `files`, `snapshots`,
//!   `network` and `removal` carry them out. `idle` ends unused resources, and `runtimes` holds the running sandboxes.
//! - `host_approver` requests the approvals of hosts, for named sandboxes and for `agentd run`.
//! - `protection` tracks protected paths, and `unreported` keeps their changes for the next daemon; `ttl` tracks the lifetimes.
//! - `log` is the output of detached commands, `daemon_log` the daemon's own log.

mod admission;
mod boundary;
mod client;
mod commands;
mod connect;
mod connection;
mod control;
mod daemon_log;
mod error;
mod files;
mod folder;
#[doc(hidden)]
pub mod fuzz;
mod handshake;
pub mod host_approver;
mod idle;
mod key;
mod lifecycle;
mod log;
mod network;
mod process;
mod protection;
mod protocol;
mod removal;
mod report;
mod running;
mod runtimes;
mod serve;
mod snapshots;
mod started;
mod ttl;
mod unreported;
mod waiting;

pub use agentd_kernel::mount::OwnMounts;
pub use boundary::{Proof, Prove};
pub use client::Client;
pub use control::Stopped;
pub use daemon_log::LogFile;
pub use error::{DaemonError, KeyRefusal};
pub use log::path as log_path;
pub use process::run;
pub use protocol::{Activity, Daemon, Status};
pub use report::Finding;
pub use started::{After, Started};
