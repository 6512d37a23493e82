//! `agentd serve` by TCP, as its clients and attackers see it: API keys, tokens, certificates, TLS, tenants, and the bounds of what strangers can do.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod access;
mod certificates;
mod floods;
mod keys;
mod mcp;
mod place;
mod restricted;
mod sandboxes;
mod secrecy;
mod tenants;
mod tls;
mod tokens;
