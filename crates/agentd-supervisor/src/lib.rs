//! Process 1 of every sandbox (the *supervisor*), the single-threaded process that makes sandboxes (the *launcher*), and the
//! protocol they speak with the library.
//!
//! One file per part that takes part: [`launcher`] makes the process, `ids` says who it is on the host, `seal` is what that process does before anything
//! foreign runs, `serve` is what it does afterwards, `spawn` is the short way between fork and exec.

pub mod channel;
mod ids;
pub mod launcher;
pub mod plan;
pub mod protocol;
mod seal;
mod serve;
mod spawn;
mod sweep;
