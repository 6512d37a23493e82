//! Capabilities (`capabilities(7)`), no_new_privs, the dumpable flag and the session keyring.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use serde::{Deserialize, Serialize};

/// A set of capabilities, by their numbers (`capabilities(7)`, `linux/capability.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// None.
    pub const NONE: Self = Self(0);
    /// What installing packages takes inside a root of its own: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID,
    /// NET_BIND_SERVICE. They hold in the sandbox's user namespace only.
    pub const OWN_ROOT: Self = Self(0x4fb);

    /// The same, but that no program becomes another user (CAP_SETUID).
    #[must_use]
    pub fn as_one_user(self) -> Self {
        Self(self.0 & !(1 << 7))
    }

    fn has(self, number: libc::c_ulong) -> bool {
        self.0 >> number & 1 == 1
    }

    /// What is done to a supervisor's privileges, in words.
    pub fn describe(self) -> String {
        let sets =
            if self == Self::NONE { "all capability sets empty".to_owned() } else { format!("capabilities {:#x} kept", self.0) };
        format!("{sets}, no_new_privs, not dumpable, own session keyring")
    }
}

/// Has programs that this process executes inherit nothing but their standard streams: whoever started this process may have left it
/// more, and what lives on would hold that open.
pub fn bequeath_nothing() -> Result<(), LayerError> {
    syscall::close_others_on_exec()
        .at(Layer::Process, || "close_range 3.. CLOSE_RANGE_CLOEXEC".to_owned())
        .map_err(|error| error.remedy("Linux 5.11 is needed"))
}

/// Takes all but `kept` from the capability bounding set, so that no program can give any back. Needs CAP_SETPCAP, and keeps what
/// the process has.
pub fn limit_bounding_set(kept: Capabilities) -> Result<(), LayerError> {
    for capability in (0..64).filter(|number| !kept.has(*number)) {
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

/// Leaves `kept` in the effective and permitted sets, and nothing in the ambient and inheritable ones.
pub fn drop_capabilities(kept: Capabilities) -> Result<(), LayerError> {
    syscall::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0)
        .at(Layer::Privileges, || "clear ambient capabilities".to_owned())?;
    syscall::set_capabilities(kept.0).at(Layer::Privileges, || format!("capset to {:#x}", kept.0))
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
