//! System calls that no safe crate wraps.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(result)
}

/// `clone(2)`. The constant of the libc crate is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What `clone3` returned.
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the caller: the child's pid and pidfd.
    Parent(i32, OwnedFd),
}

/// `clone3(2)` with a copy of the address space, as `fork(2)`.
///
/// # Safety
/// The caller must be single-threaded: the child goes on with a copy of this process, in which locks held by other threads
/// would stay locked for ever.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    // SAFETY: all-zero is a valid `clone_args`: no flags, no stack, no TLS.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut pidfd: libc::c_int = -1;
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` lives across the call and its size is given; without CLONE_VM the child has its own copy of the stack.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
    Ok(Cloned::Parent(i32::try_from(pid).unwrap_or(-1), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// `mount_setattr(2)` on the mount that `tree` refers to, and those below it when `recursive`.
pub fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, set: u64, userns: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` lives across the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// `prctl(2)` with integer arguments.
pub fn prctl(option: libc::c_int, arg2: libc::c_ulong, arg3: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the options used here take integers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, arg2, arg3, 0, 0) }))?;
    Ok(())
}

/// The Landlock ABI of this kernel, 0 for none (`landlock_create_ruleset(2)`, `LANDLOCK_CREATE_RULESET_VERSION`).
pub fn landlock_abi() -> i32 {
    // SAFETY: with the version flag the kernel reads no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    i32::try_from(abi).unwrap_or(0).max(0)
}

/// Joins a new anonymous session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`).
pub fn join_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring; nothing is read.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<u8>()) })?;
    Ok(())
}

/// Brings the interface `lo` up (`netdevice(7)`).
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a complete ifreq for SIOCSIFFLAGS and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) }))?;
    Ok(())
}

/// Empties the supplementary groups.
pub fn clear_groups() -> Result<(), Errno> {
    // SAFETY: a count of zero reads nothing.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()) })?;
    Ok(())
}

/// Sets real, effective and saved ids of this (single-threaded) process.
pub fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Empties effective, permitted and inheritable capability sets (`capset(2)`, version 3).
pub fn clear_capabilities() -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data = [0u32; 6];
    // SAFETY: version 3 reads a header and two triples of 32-bit words, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// A child in a user namespace of its own that does nothing until it is killed; it shares this address space.
pub fn park_in_user_namespace() -> Result<i32, Errno> {
    extern "C" fn park(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: pause(2) touches no memory.
            unsafe { libc::pause() };
        }
    }
    let mut stack = vec![0u64; 1024].into_boxed_slice();
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: `top` is the aligned end of an 8 KiB stack, which `park` does not exceed; it is leaked below, so it outlives
    // the child. Without SIGCHLD in the flags the child needs __WCLONE to be waited for.
    let pid = check(libc::c_long::from(unsafe {
        libc::clone(park, top.cast(), libc::CLONE_VM | libc::CLONE_NEWUSER, std::ptr::null_mut())
    }))?;
    PARKED_STACKS.with_borrow_mut(|stacks| stacks.push(stack));
    Ok(i32::try_from(pid).unwrap_or(-1))
}

/// Kills and reaps a child made by [`park_in_user_namespace`].
pub fn unpark(pid: i32) {
    // SAFETY: integer arguments and a null status pointer, which waitpid(2) allows.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE);
    }
    PARKED_STACKS.with_borrow_mut(|stacks| stacks.pop());
}

thread_local! {
    /// Stacks in use by parked children, last one newest.
    static PARKED_STACKS: std::cell::RefCell<Vec<Box<[u64]>>> = const { std::cell::RefCell::new(Vec::new()) };
}
