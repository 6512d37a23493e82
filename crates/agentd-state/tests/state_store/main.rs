//! Tests of the store: duplicates, crashes, quotas, approvals, damage and power failure.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod answers;
mod api_keys;
mod approvals;
mod child;
mod damage;
mod folder;
mod full_disk;
mod killed;
mod model;
mod place;
mod power;
mod quotas;
mod two_processes;
