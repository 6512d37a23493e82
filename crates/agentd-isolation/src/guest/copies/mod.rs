//! Grants in a machine that is shown nothing of the host: *copies*. What is granted is copied into the guest before its sandbox is made, and
//! what the sandbox changed in it is brought back when a command has ended.
//!
//! The same code sends and takes on both sides; what comes from a guest is untrusted, and `take` is what holds it to its bounds.
//!
//! - `plan`: which directories are copied, and what of the host may be changed.
//! - `entry`: what is on its way. It has no word for devices, sockets, hard links, owners and attributes, so none of them can be asked for.
//! - `tree`: names and directories, never through a link; `survey`: what is there, and what of it has changed; `send`, `take`.
//! - `host`: the host's side, with the rights of whoever owns what was granted; `inside`: the guest's.

mod entry;
mod error;
mod host;
mod inside;
mod plan;
mod send;
mod survey;
mod take;
mod tree;

pub use host::Copies;
pub(super) use inside::Held;
