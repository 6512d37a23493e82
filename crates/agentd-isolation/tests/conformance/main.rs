//! One suite for every backend, through the public traits. A backend has no suite of its own for what all backends do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod ends;
mod files;
mod grants;
mod ids;
mod life;
mod limits;
mod snapshots;
mod streams;

use libtest_mimic::{Arguments, Trial};

fn main() {
    support::machine::take_role();
    agentd_isolation::take_role();
    support::machine::register();
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = support::backends()
        .into_iter()
        .flat_map(|backend| {
            [
                commands::trials(backend),
                ends::trials(backend),
                files::trials(backend),
                grants::trials(backend),
                ids::trials(backend),
                life::trials(backend),
                limits::trials(backend),
                snapshots::trials(backend),
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
