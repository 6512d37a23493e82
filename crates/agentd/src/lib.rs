//! agentd runs what AI agents ask for, each command in a sandbox that is as strong as this machine allows and says how strong that
//! was. This is the library; the program of the same name is made of it.

pub mod cli;

pub use agentd_core as core;
pub use agentd_isolation as isolation;
