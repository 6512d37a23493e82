//! Clients of MCP that others wrote: the official Python client, the command line of the inspector, and agent CLIs with a server
//! that plays their model. They are installed by `./test` (row `egress-clients`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod agents;
mod model;
mod official;
mod place;
