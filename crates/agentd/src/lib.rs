//! agentd runs the commands of AI agents. Each command runs in a sandbox that is as strong as this host allows, and agentd
//! reports how strong that sandbox was.
//!
//! This library contains the whole program of the same name. A program that embeds the library calls [`isolation::take_role`]
//! first in `main` and takes a backend from [`isolation::require_backend`], as in the example `readme.rs`.

pub mod cli;
pub mod isolation;

pub use agentd_core as core;
#[cfg(feature = "tools")]
pub use agentd_tool as tool;
