//! Clients of package registries in sandboxes: a real installation through granted names. The names are those of this machine's
//! own configuration. If a registry cannot be reached from this machine, the client is tested against a registry of the test, in
//! namespaces of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod configured;
#[path = "../egress_clients/managers.rs"]
#[allow(dead_code, reason = "shared with the suite `egress_clients`")]
mod managers;
#[path = "../egress/outer.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod outer;
#[path = "../egress/place.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod place;
mod real;
#[path = "../egress/tls.rs"]
#[allow(dead_code, reason = "shared with the suite `egress`")]
mod tls;

use libtest_mimic::{Arguments, Failed, Trial, run};
use std::process::Command;

/// Set in the process that tests against registries of the test.
const LOCAL: &str = "AGENTD_TEST_LOCAL_REGISTRY";

/// A registry, its test against the configured one, and the test in `managers` against a registry of the test.
type RegistryTest = (&'static str, fn() -> Option<configured::Registry>, fn(&str, &configured::Registry), &'static str);

static TESTS: [RegistryTest; 4] = [
    ("pip", configured::pip, real::pip, "pip_installs_from_a_granted_index"),
    ("npm", configured::npm, real::npm, "npm_installs_and_repeats_it_from_a_lock_file"),
    ("cargo", configured::cargo, real::cargo, "cargo_fetches_from_a_granted_registry"),
    ("apt", configured::apt, real::apt, "apt_updates_from_a_granted_repository"),
];

fn main() {
    agentd::isolation::take_role();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if std::env::var_os(LOCAL).is_some() {
        return local(&arguments);
    }
    let trials = place::backends().into_iter().flat_map(|backend| {
        TESTS.iter().map(move |test| {
            Trial::test(format!("{backend}::{}_installs_through_granted_names", test.0), move || one(backend, test))
        })
    });
    run(&arguments, trials.collect()).exit()
}

/// Tests against the configured registry if this machine reaches it, and else against one of the test.
fn one(backend: &str, (name, find, real, local): &RegistryTest) -> Result<(), Failed> {
    if let Some(registry) = find() {
        eprintln!("{name}: through {}", registry.grants.join(","));
        real(backend, &registry);
        return Ok(());
    }
    eprintln!("{name}: the configured registry is not reached from here; using one of the test");
    let mut command = Command::new(std::env::current_exe()?);
    let status = command.args(["--exact", &format!("{backend}::{local}")]).env(LOCAL, "1").status()?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}").into()) }
}

fn local(arguments: &Arguments) {
    outer::enter();
    outer::serve();
    let trials = place::backends().into_iter().flat_map(|backend| {
        managers::TESTS.iter().map(move |(name, test)| {
            let test = *test;
            Trial::test(format!("{backend}::{name}"), move || {
                outer::forget();
                test(backend);
                Ok(())
            })
        })
    });
    run(arguments, trials.collect()).exit()
}
