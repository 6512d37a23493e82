//! The role handler: runs the code of a helper process instead of the program's own `main`.

use agentd_supervisor::{
    launcher,
    role::{self, Role},
};
use std::{env::ArgsOs, iter::Skip};

/// The code of a backend's helper processes, registered by a backend in another crate.
pub struct Handler {
    /// The role of the helper processes.
    pub role: Role,
    /// Runs a process of this role with its arguments, and returns its exit code.
    pub main: fn(Skip<ArgsOs>) -> i32,
}

/// Runs the code of a helper process and exits, if this process was started as one; returns otherwise. Handles the launcher and
/// the attack suite itself; `handlers` handle the other roles. A process whose role has no handler exits with an error.
pub fn take_role(handlers: &[Handler]) {
    role::install_handler();
    let arguments = || std::env::args_os().skip(1);
    let code = match Role::current() {
        None => return,
        Some(Role::Launcher) => launcher::main(),
        Some(Role::Attack) => agentd_attack::main(arguments().map(|argument| argument.to_string_lossy().into_owned())),
        Some(role) => match handlers.iter().find(|handler| handler.role == role) {
            Some(handler) => (handler.main)(arguments()),
            None => {
                eprintln!(
                    "agentd: cannot run as {role}: this program was built without the Cargo feature of the role — \
                     build agentd with its default features"
                );
                role::FAILED
            }
        },
    };
    std::process::exit(code);
}
