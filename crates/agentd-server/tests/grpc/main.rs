//! gRPC with a real engine and real clients, and without sandboxes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod calls;
mod commands;
mod hostile;
mod place;
mod refusals;
mod streams;
