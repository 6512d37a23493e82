//! Executes intents that create, use or remove named sandboxes, with the client that `agentd sandbox` uses.
//!
//! 1. `owned` translates the names that a principal has chosen, and finds only the sandboxes of that principal.
//!    `own_sandboxes` are those that an intent may use.
//! 2. `settings` turns the terms of an intent into the settings of a new sandbox; `create` creates and forks sandboxes.
//! 3. `operation` carries out the other operations, `files` those on files, and `describe` returns the state as JSON.
//! 4. `command` runs the command of an intent in a sandbox.

mod command;
mod create;
mod describe;
mod failure;
mod files;
mod operation;
mod own_sandboxes;
mod owned;
pub(super) mod settings;

pub(super) use command::execute as execute_command;
pub(super) use operation::execute;
