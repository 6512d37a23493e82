//! Capabilities (`capabilities(7)`), no_new_privs, the dumpable flag and the session keyring.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};

/// What is done to a supervisor's privileges, in words.
pub const DESCRIPTION: &str = "all capability sets empty, no_new_privs, not dumpable, own session keyring";

/// Empties the capability bounding set, so that no program can give any back. Needs CAP_SETPCAP, and keeps what the process has.
pub fn empty_bounding_set() -> Result<(), LayerError> {
    for capability in 0..64 {
        match syscall::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => {
                return Err(LayerError::new(
                    Layer::Privileges,
                    format!("drop capability {capability} from the bounding set"),
                    Some(errno.raw_os_error()),
                ));
            }
        }
    }
    Ok(())
}

/// Empties the ambient, effective, permitted and inheritable sets.
pub fn drop_capabilities() -> Result<(), LayerError> {
    syscall::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0)
        .at(Layer::Privileges, || "clear ambient capabilities".to_owned())?;
    syscall::clear_capabilities().at(Layer::Privileges, || "capset to none".to_owned())
}

/// Gives the process a session keyring of its own.
pub fn own_keyring() -> Result<(), LayerError> {
    match syscall::join_session_keyring() {
        // Kernels without keyrings have none to share.
        Ok(()) | Err(rustix::io::Errno::NOSYS) => Ok(()),
        Err(errno) => Err(LayerError::new(Layer::Privileges, "join a new session keyring", Some(errno.raw_os_error()))),
    }
}

/// Sets no_new_privs and clears the dumpable flag, so that the process can't be traced by its own uid (`ptrace(2)`).
pub fn harden() -> Result<(), LayerError> {
    no_new_privs()?;
    syscall::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Layer::Privileges, || "prctl PR_SET_DUMPABLE".to_owned())
}

/// Sets no_new_privs (`prctl(2)`).
pub fn no_new_privs() -> Result<(), LayerError> {
    syscall::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Layer::Privileges, || "prctl PR_SET_NO_NEW_PRIVS".to_owned())
}

/// Asks the kernel to send `signal` to this process when its parent dies. Cleared by later changes of ids.
pub fn die_with_parent(signal: i32) -> Result<(), LayerError> {
    syscall::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.unsigned_abs()), 0)
        .at(Layer::Process, || "prctl PR_SET_PDEATHSIG".to_owned())
}
