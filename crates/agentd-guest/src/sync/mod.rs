//! Grants in a machine that has no access to the host's files: *copies*. Granted files are copied into the guest before its
//! sandbox is created. The changes of the sandbox are copied back when a command has ended.
//!
//! The same code sends and receives on both sides. Everything received from a guest is untrusted, and `receive` enforces the
//! limits on it.
//!
//! - `plan`: decides which directories are copied, and which paths of the host may be changed.
//! - `entry`: the transfer format. It cannot express devices, sockets, hard links, owners and attributes, so a guest cannot
//!   request them.
//! - `tree`: names and directories, resolved without following links; `scan`: the files that exist, and which of them changed;
//!   `send`, `receive`: the transfer.
//! - `host`: the host's side, with the rights of the owner of the granted files; `inside`: the guest's side.

mod entry;
mod error;
pub(super) mod fuzz;
mod host;
mod inside;
mod plan;
mod receive;
mod scan;
mod send;
mod tree;

pub use host::Copies;
pub(super) use inside::GuestCopy;
