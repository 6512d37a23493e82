//! Sandboxes that reach granted hosts only, with real servers and real programs.
//!
//! The process enters its own network namespace (and, as an ordinary user, a user namespace), and executes itself again. Every
//! address is local in that namespace, so the servers can have any address that a test needs, and no packet leaves. The tests run
//! one at a time, because they share the servers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod abuse;
mod approvals;
mod attacks;
mod aws;
mod datagrams;
mod forward;
mod inspection;
#[path = "../support/json_document.rs"]
mod json_document;
mod library;
mod machine;
mod named;
mod named_place;
mod net_limits;
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
    outer::count_if_asked();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list {
        outer::enter();
        outer::serve();
    }
    let reaching = [
        abuse::TESTS,
        approvals::TESTS,
        attacks::TESTS,
        datagrams::TESTS,
        library::TESTS,
        net_limits::TESTS,
        programs::TESTS,
        reports::TESTS,
    ];
    let tests = [reaching.concat(), [aws::TESTS, inspection::TESTS, secrets::TESTS].concat()].concat();
    // Only `container` runs named sandboxes.
    let named = [approvals::NAMED_TESTS, named::TESTS, datagrams::NAMED_TESTS, forward::TESTS].concat();
    let machines = [approvals::TESTS, attacks::TESTS, machine::TESTS].concat();
    let trials = place::backends().into_iter().flat_map(|backend| {
        let named: &[EgressTest] = if backend == "container" { &named } else { &[] };
        // The sandbox in a machine is that of `container`, and each test starts a machine.
        let tests = if place::MACHINES.contains(&backend) { &machines } else { &tests };
        tests.iter().chain(named).map(move |(name, test)| {
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
