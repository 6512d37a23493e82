//! The project's own tasks. There is one: `cargo xtask lab`, a virtual machine of another kernel than this machine's, in which a command
//! runs: cgroup version 2 with all controllers, older Landlock, KVM where there is none.
//!
//! `lab.rs` tells the story: `packages` gets a kernel and a Debian, `kernel` packs what is to be loaded with this very program, which is
//! process 1 of the machine ([`guest`]), `machine` starts QEMU, `talk` hands over the command and waits.

mod args;
mod error;
mod firecracker;
mod guest;
mod kernel;
mod lab;
mod machine;
mod message;
mod packages;
mod root;
mod share;
mod talk;
mod tool;

use std::process::ExitCode;

/// What `cargo xtask lab` answers when the lab itself failed, as `docker run` does: no answer of the command's.
const LAB_FAILED: u8 = 125;

fn main() -> ExitCode {
    if std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init") {
        return guest::main();
    }
    match lab::main(<args::Args as clap::Parser>::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::from(LAB_FAILED)
        }
    }
}
