//! `agentd mcp` on standard input and output, as a client sees it: both eras of the protocol, tools, progress, cancellation,
//! approvals, cut outputs, and clients that break the rules. Also `agentd mcp install` and `uninstall`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod approvals;
mod cancellation;
mod client;
mod eras;
mod hostile;
mod install;
mod outputs;
mod sandboxes;
mod tools;
