//! Sandboxes that reach granted hosts only, with real servers and real programs.
//!
//! The process enters a network namespace of its own, as an ordinary user with a user namespace, and executes itself again. Every
//! address is local there, so the servers have any address that a test needs, and nothing leaves. The tests run one at a time,
//! because they share the servers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod attacks;
mod inspection;
#[path = "../support/json_document.rs"]
mod json_document;
mod library;
mod outer;
mod place;
mod programs;
mod reports;
mod search;
mod secrets;
mod tls;

use libtest_mimic::{Arguments, Trial, run};

/// The name of a test, and the test with a backend.
type EgressTest = (&'static str, fn(&str));

fn main() {
    agentd::isolation::take_role();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list {
        outer::enter();
        outer::serve();
    }
    let tests = [attacks::TESTS, inspection::TESTS, library::TESTS, programs::TESTS, reports::TESTS, secrets::TESTS].concat();
    let trials = place::backends().into_iter().flat_map(|backend| {
        tests.iter().map(move |(name, test)| {
            let test = *test;
            Trial::test(format!("{backend}::{name}"), move || {
                outer::forget();
                test(backend);
                Ok(())
            })
        })
    });
    run(&arguments, trials.collect()).exit()
}
