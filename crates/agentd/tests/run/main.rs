//! `agentd run` from the command line: the built program runs real commands under real limits.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod boundary;
mod directories;
mod ends;
mod explain;
mod hooks;
mod json;
#[path = "../support/json_document.rs"]
mod json_document;
mod place;
mod prepared;
mod programs;
mod signals;
mod streams;
