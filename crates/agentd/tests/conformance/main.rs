//! One suite for every backend, through the public traits. Behaviour that all backends share is tested only here.
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
mod names;
mod scheduling;
mod snapshots;
mod streams;
mod system_calls;

use libtest_mimic::{Arguments, Trial};

fn main() {
    support::machine::take_role();
    agentd::isolation::take_role();
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
                names::trials(backend),
                scheduling::trials(backend),
                snapshots::trials(backend),
                streams::trials(backend),
                system_calls::trials(backend),
            ]
        })
        .flatten()
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Creates the trials of one backend from test functions.
#[macro_export]
macro_rules! table {
    ($backend:expr, $($test:ident),+ $(,)?) => {
        vec![$($crate::support::trial(format!("{}::{}", $backend, stringify!($test)), move || $test($backend))),+]
    };
}
