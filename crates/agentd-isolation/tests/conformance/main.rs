//! One suite for every backend, through the public traits. A backend has no suite of its own for what all backends do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod ends;
mod files;
mod grants;
mod life;
mod limits;
mod streams;

use libtest_mimic::{Arguments, Trial};

/// The backends under test.
const BACKENDS: [&str; 4] = ["host-direct", "linux-native", "container", "gondolin"];

/// Beside them, what all virtual machines have in common: the agent in a machine, which only root can be.
fn backends() -> Vec<&'static str> {
    let machine = rustix::process::geteuid().is_root().then_some(support::machine::NAME);
    BACKENDS.into_iter().chain(machine).collect()
}

fn main() {
    support::machine::take_role();
    agentd_isolation::take_role();
    support::machine::register();
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = backends()
        .into_iter()
        .flat_map(|backend| {
            [
                commands::trials(backend),
                ends::trials(backend),
                files::trials(backend),
                grants::trials(backend),
                life::trials(backend),
                limits::trials(backend),
                streams::trials(backend),
            ]
        })
        .flatten()
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// A table of tests for one backend.
#[macro_export]
macro_rules! table {
    ($backend:expr, $($test:ident),+ $(,)?) => {
        vec![$($crate::support::trial(format!("{}::{}", $backend, stringify!($test)), move || $test($backend))),+]
    };
}
