//! The processes that create and run sandboxes, and their protocol with the library.
//!
//! The *launcher* is a single-threaded process that creates sandboxes. The *supervisor* is the first process of
//! every sandbox, and process 1 of its PID namespace if there is one; it starts the commands.
//!
//! - [`launcher`] creates the supervisor process; `ids` chooses its ids on the host.
//! - `confine` applies the controls of the [`plan`] in the new process, before any foreign code runs.
//! - `serve` is the loop of a confined supervisor; `spawn` starts commands, and `sweep` ends process trees.
//! - `oom` makes the kernel kill commands before the supervisor when memory runs out.
//! - `listener` answers system calls that the filter does not decide: `set_gid` sets the set-group-id bit of directories, and
//!   `schedule` changes the scheduling of a command's own processes.
//! - [`protocol`] and [`channel`] are the messages and their transport, and `shorten` keeps them within their limit.
//! - [`role`] executes this program as a helper process.

pub mod channel;
mod confine;
mod ids;
pub mod launcher;
mod listener;
mod oom;
pub mod plan;
pub mod protocol;
pub mod role;
mod schedule;
mod serve;
mod set_gid;
mod shorten;
mod spawn;
mod sweep;
