//! Programs that reach granted hosts without any setting for a proxy: clients of package registries, HTTP libraries, and agent
//! CLIs from npm. The servers belong to the test, as in the suite `egress`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod agents;
mod libraries;
mod managers;
#[path = "../egress/outer.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod outer;
#[path = "../egress/place.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod place;
#[path = "../egress/search.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod search;
#[path = "../egress/tls.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod tls;

use libtest_mimic::{Arguments, Trial, run};

fn main() {
    agentd::isolation::take_role();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list {
        outer::enter();
        outer::serve();
    }
    let tests = [libraries::TESTS, managers::TESTS, agents::TESTS].concat();
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
