//! Protected paths: a command cannot change existing files that host tools execute or load, and new ones are reported.
//! Uses real git, inside and outside the sandbox.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod changes;
mod creation;
mod git;
mod json;
mod project;
mod settings;
mod unprotect;
