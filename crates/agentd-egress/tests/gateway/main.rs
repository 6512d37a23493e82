//! The gateway between a sandbox's network namespace and servers outside of it.
//!
//! The process enters separate user and network namespaces before it starts a thread. Each test has a further network namespace
//! as its sandbox. Therefore the tests run as any user, and reach nothing of the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod approvals;
mod aws;
mod client_hello;
mod datagrams;
mod flows;
mod inspect;
mod inspect_refusals;
mod namespace;
mod net_limits;
mod origin;
mod refusals;
mod sandbox;

use libtest_mimic::{Arguments, Trial, run};

fn main() {
    let arguments = Arguments::from_args();
    namespace::enter_outer();
    let tests: Vec<(&str, fn())> = [
        flows::TESTS,
        refusals::TESTS,
        datagrams::TESTS,
        inspect::TESTS,
        inspect_refusals::TESTS,
        aws::TESTS,
        net_limits::TESTS,
        approvals::TESTS,
    ]
    .concat();
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    run(&arguments, trials.collect()).exit()
}
