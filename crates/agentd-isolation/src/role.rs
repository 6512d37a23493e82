//! This program is also the launcher, the attack suite, and the agent in virtual machines; which one a process is, its `argv[0]` says.

use crate::{firecracker, guest};
use std::{
    os::unix::ffi::OsStrExt,
    sync::atomic::{AtomicBool, Ordering},
};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Does the work of a helper process, if this process was started as one, and then does not return. To be called first in
/// `main`, before any thread is started.
pub fn take_role() {
    TAKEN.store(true, Ordering::Relaxed);
    let Some(name) = std::env::args_os().next() else { return };
    if firecracker::boot::is_wanted() {
        firecracker::boot::main();
    }
    if name.as_bytes() == firecracker::room::ROLE.as_bytes() {
        std::process::exit(firecracker::room::main(std::env::args_os().skip(1)));
    }
    if name.as_bytes() == agentd_supervisor::launcher::ROLE.as_bytes() {
        std::process::exit(agentd_supervisor::launcher::main());
    }
    if name.as_bytes() == agentd_attack::ROLE.as_bytes() {
        let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
        std::process::exit(agentd_attack::main(args));
    }
    // Not every way of starting a program in a machine lets its name be chosen apart from its path.
    if std::path::Path::new(&name).file_name().is_some_and(|name| name.as_bytes() == guest::ROLE.as_bytes()) {
        std::process::exit(guest::main(std::env::args_os().skip(1)));
    }
}

/// Whether [`take_role`] was called. Without it, a launcher would start the embedding program's own `main`.
pub(crate) fn taken() -> bool {
    TAKEN.load(Ordering::Relaxed)
}
