//! User ids, groups, capabilities and the session keyring of this process (`credentials(7)`).

use super::check;
use rustix::io::Errno;

/// Empties the supplementary groups.
pub fn clear_groups() -> Result<(), Errno> {
    // SAFETY: a count of zero reads nothing.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()) })?;
    Ok(())
}

/// Sets the real, effective and saved ids of this single-threaded process.
pub fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets the effective and the permitted capability set, and empties the inheritable one (`capset(2)`, version 3).
pub fn set_capabilities(effective: u64, permitted: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let low = |set: u64| u32::try_from(set & u64::from(u32::MAX)).unwrap_or(0);
    let high = |set: u64| u32::try_from(set >> 32).unwrap_or(0);
    // Effective, permitted and inheritable sets: first bits 0–31, then bits 32–63.
    let data = [low(effective), low(permitted), 0, high(effective), high(permitted), 0];
    // SAFETY: for version 3 the kernel reads a header and two triples of 32-bit words, which `header` and `data` are.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// Sets this thread's file system ids (`setfsuid(2)`, `setfsgid(2)`). Sets the group first: a thread that has given up root's ids
/// cannot set it.
pub fn set_fs_ids(user: u32, group: u32) -> Result<(), Errno> {
    // Both calls return the previous id and never report an error. Setting an invalid id changes nothing and returns the current
    // id. SAFETY: both calls take integers only.
    let after = unsafe {
        libc::setfsgid(group);
        libc::setfsuid(user);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if after == (user.cast_signed(), group.cast_signed()) { Ok(()) } else { Err(Errno::PERM) }
}

/// Joins a new anonymous session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`).
pub fn join_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name requests an anonymous keyring; the kernel reads no memory of this process.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<u8>()) })?;
    Ok(())
}
