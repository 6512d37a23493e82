//! The project's own tasks.
//!
//! - `cargo xtask test` runs the tests as the matrix specifies ([`matrix`]).
//! - `cargo xtask lab` runs a command in a virtual machine with another kernel: with cgroup version 2 and all controllers, with
//!   an older Landlock, or with KVM on a host without it.
//!
//! [`lab`] carries out one run: `packages` fetches a kernel and a Debian system, and `kernel` packs the modules together with
//! this program, which is process 1 of the machine ([`guest`]). Then `machine` starts QEMU, and `talk` sends the command and
//! waits for the result.

mod args;
#[cfg(test)]
mod attack_table_tests;
#[cfg(test)]
mod cycle_tests;
#[cfg(test)]
mod decision_table_tests;
#[cfg(test)]
mod document_width_tests;
mod error;
mod firecracker;
mod guest;
mod kernel;
mod lab;
mod machine;
mod matrix;
mod message;
#[cfg(test)]
mod name_tests;
mod packages;
#[cfg(test)]
mod protocol_table_tests;
mod root;
mod scratch;
mod share;
#[cfg(test)]
mod source_tests;
mod talk;
mod tool;
mod tsc;

use std::process::ExitCode;

/// Exit code of `cargo xtask lab` if the lab itself failed, not the command. `docker run` uses the same code.
const LAB_FAILED: u8 = 125;

fn main() -> ExitCode {
    if std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init") {
        return guest::main();
    }
    let done = match <args::Args as clap::Parser>::parse().task {
        args::Task::Lab(lab) => lab::main(lab),
        args::Task::Test(test) => matrix::test(&test),
        args::Task::Matrix(asked) => matrix::matrix(&asked),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(LAB_FAILED)
        }
    }
}
