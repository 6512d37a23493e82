//! Capabilities (`capabilities(7)`), no_new_privs, the dumpable flag and the session keyring.

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError};
use serde::{Deserialize, Serialize};

/// A set of capabilities, by their numbers (`capabilities(7)`, `linux/capability.h`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// The capabilities that installing packages in a sandbox's own root needs: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL,
    /// SETGID, SETUID, NET_BIND_SERVICE. They are effective in the sandbox's user namespace only.
    pub const OWN_ROOT: Self = Self(0x4fb);

    /// Returns the set without CAP_SETUID, so that no program can become another user.
    #[must_use]
    pub fn as_one_user(self) -> Self {
        Self(self.0 & !(1 << 7))
    }

    fn has(self, number: libc::c_ulong) -> bool {
        self.0 >> number & 1 == 1
    }

    /// Describes the restrictions on a supervisor's privileges, for reports.
    pub fn describe(self) -> String {
        let sets = if self == Self::NONE {
            "effective, inheritable and ambient capability sets empty, permitted: CAP_WAKE_ALARM only".to_owned()
        } else {
            format!("effective capabilities {:#x}, permitted: these and CAP_WAKE_ALARM", self.0)
        };
        format!("{sets}, no_new_privs, not dumpable, own session keyring")
    }
}

/// Marks all descriptors above 2 close-on-exec. The process that started this one may have leaked others, which long-running
/// children would keep open.
///
/// # Errors
/// `EINVAL` or `ENOSYS` before Linux 5.11 (`close_range(2)`, `CLOSE_RANGE_CLOEXEC`).
pub fn bequeath_nothing() -> Result<(), ControlError> {
    syscall::descriptors::close_others_on_exec()
        .during(Control::Process, || "close_range 3.. CLOSE_RANGE_CLOEXEC".to_owned())
        .map_err(|error| error.remedy("boot Linux 5.11 or later"))
}

/// Removes all capabilities except `kept` from the bounding set, so that no executed program can regain them. The capabilities of
/// this process do not change. Needs CAP_SETPCAP.
///
/// # Errors
/// The errno of `prctl(2)`, `PR_CAPBSET_DROP`.
pub fn limit_bounding_set(kept: Capabilities) -> Result<(), ControlError> {
    for capability in (0..64).filter(|number| !kept.has(*number)) {
        match syscall::processes::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(()) => {}
            // The first number that this kernel does not know ends the list.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => {
                return Err(ControlError::new(
                    Control::Privileges,
                    format!("drop capability {capability} from the bounding set"),
                    Some(errno.raw_os_error()),
                ));
            }
        }
    }
    Ok(())
}

/// `CAP_WAKE_ALARM`, which the supervisor keeps in its permitted set and no command has. The kernel checks this capability in the
/// initial user namespace only, so that it permits nothing in another one.
///
/// A process may change nice value, scheduling policy, affinity and I/O priority of another process of the same user. The kernel
/// refuses this if the target has a permitted capability that the caller lacks (`cap_safe_nice` in `security/commoncap.c`).
/// Executing a program clears the capability.
const GUARD: u64 = 1 << 35;

/// Reduces the effective and permitted sets to `kept`, plus `CAP_WAKE_ALARM` in the permitted set, and empties the ambient and
/// inheritable sets.
///
/// # Errors
/// The errno of `prctl(2)` or `capset(2)`.
pub fn drop_capabilities(kept: Capabilities) -> Result<(), ControlError> {
    syscall::processes::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0)
        .during(Control::Privileges, || "clear ambient capabilities".to_owned())?;
    syscall::credentials::set_capabilities(kept.0, kept.0 | GUARD)
        .during(Control::Privileges, || format!("capset to {:#x}", kept.0))
}

/// Runs `act` with an empty effective set on the calling thread, then restores `kept` and the permitted set of
/// [`drop_capabilities`].
///
/// # Errors
/// The errno of `act` or of `capset(2)`. If the set cannot be emptied, `act` does not run.
pub fn without_effective<T>(
    kept: Capabilities,
    act: impl FnOnce() -> Result<T, rustix::io::Errno>,
) -> Result<T, rustix::io::Errno> {
    if kept == Capabilities::NONE {
        return act();
    }
    syscall::credentials::set_capabilities(0, kept.0 | GUARD)?;
    let result = act();
    syscall::credentials::set_capabilities(kept.0, kept.0 | GUARD)?;
    result
}

/// Moves the process into a new session keyring.
///
/// # Errors
/// The errno of `keyctl(2)`, except `ENOSYS`.
pub fn own_keyring() -> Result<(), ControlError> {
    match syscall::credentials::join_session_keyring() {
        // A kernel without keyrings has no keyring to share.
        Ok(()) | Err(rustix::io::Errno::NOSYS) => Ok(()),
        Err(errno) => Err(ControlError::new(Control::Privileges, "join a new session keyring", Some(errno.raw_os_error()))),
    }
}

/// Sets no_new_privs and clears the dumpable flag, so that processes of the same uid cannot trace this process (`ptrace(2)`).
///
/// # Errors
/// The errno of `prctl(2)`.
pub fn harden() -> Result<(), ControlError> {
    no_new_privs()?;
    syscall::processes::prctl(libc::PR_SET_DUMPABLE, 0, 0).during(Control::Privileges, || "prctl PR_SET_DUMPABLE".to_owned())
}

/// Sets no_new_privs (`prctl(2)`).
///
/// # Errors
/// The errno of `prctl(2)`.
pub fn no_new_privs() -> Result<(), ControlError> {
    syscall::processes::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
        .during(Control::Privileges, || "prctl PR_SET_NO_NEW_PRIVS".to_owned())
}

/// Asks the kernel to send `signal` to this process when its parent dies. A later change of ids cancels this.
///
/// # Errors
/// The errno of `prctl(2)`.
pub fn die_with_parent(signal: i32) -> Result<(), ControlError> {
    syscall::processes::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.unsigned_abs()), 0)
        .during(Control::Process, || "prctl PR_SET_PDEATHSIG".to_owned())
}
