//! A daemon that is killed under load, at hundreds of moments.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

#[path = "../serve_chaos/client.rs"]
mod client;
#[path = "../serve_chaos/daemon.rs"]
mod daemon;
#[path = "../support/inventory.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod inventory;
#[path = "../serve_chaos/kills.rs"]
mod kills;

#[test]
fn daemon_killed_at_500_moments_executes_nothing_twice_and_loses_nothing() {
    kills::of_daemons(500);
}

#[test]
fn daemon_goes_on_after_its_launcher_was_killed_at_50_moments() {
    kills::of_launchers(50);
}
