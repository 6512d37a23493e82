//! A daemon that is killed under load, a few times. The suite `serve_chaos_long` kills it more often.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod client;
mod daemon;
#[path = "../support/inventory.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod inventory;
mod kills;

#[test]
fn daemon_killed_under_load_executes_nothing_twice_and_loses_nothing() {
    kills::of_daemons(25);
}

#[test]
fn daemon_goes_on_after_its_launcher_was_killed_under_load() {
    kills::of_launchers(5);
}
