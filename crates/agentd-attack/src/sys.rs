//! The system calls of the attacks.

use std::{ffi::CString, io, mem::zeroed};

/// Runs `body` in a child that dies after `seconds`; gives the signal that ended it, 0 for none.
pub(crate) fn in_child(seconds: u32, body: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: this program has one thread when it attacks, so the child may do whatever the parent may; it leaves by `_exit`.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::alarm(seconds);
                body();
                libc::_exit(0)
            }
            pid => {
                let mut status = 0;
                libc::waitpid(pid, &raw mut status, 0);
                Ok(if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 })
            }
        }
    }
}

/// A raw system call with integer arguments; its errno, 0 for success.
pub(crate) fn call(number: libc::c_long, args: [usize; 5]) -> i32 {
    // SAFETY: callers pass integers, null pointers, or addresses of values that live across the call.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// As [`call`] for a call that makes a process: the child exits at once.
pub(crate) fn call_forking(number: libc::c_long, args: [usize; 5]) -> i32 {
    // SAFETY: as for `call`; without CLONE_VM the child has its own memory, and it leaves at once.
    unsafe {
        match libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
            0 => libc::_exit(0),
            _ => 0,
        }
    }
}

/// Opens a socket; its descriptor or errno.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<i32, i32> {
    // SAFETY: integers only.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(-1)) } else { Ok(fd) }
}

/// Makes a file of `kind` (`mknod(2)`).
pub(crate) fn mknod(path: &str, kind: libc::mode_t, device: u64) -> bool {
    let Ok(path) = CString::new(path) else { return false };
    // SAFETY: the path is NUL-terminated and lives across the call.
    unsafe { libc::mknod(path.as_ptr(), kind | 0o600, device) == 0 }
}

/// The 32-bit entry to the kernel, with the harmless `getpid` (20): whether it answered.
#[cfg(target_arch = "x86_64")]
pub(crate) fn interrupt_entry() -> bool {
    let result: i32;
    // SAFETY: number 20 is getpid of the 32-bit table: it takes no argument and touches no memory.
    unsafe { std::arch::asm!("int 0x80", inlateout("eax") 20 => result, options(nostack)) };
    result > 0
}

/// There is none here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn interrupt_entry() -> bool {
    false
}

/// Whether the mount that `path` is on is read-only; `None` where there is no such path.
pub(crate) fn is_read_only(path: &str) -> Option<bool> {
    let path = CString::new(path).ok()?;
    // SAFETY: the path is NUL-terminated, the struct is live and of the right type.
    unsafe {
        let mut info: libc::statvfs = zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut info) == 0).then_some(info.f_flag & libc::ST_RDONLY != 0)
    }
}

/// Whether a signal could be sent to `pid`.
pub(crate) fn can_signal(pid: i32, signal: i32) -> bool {
    // SAFETY: integers only.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// The limit of open files of `pid`, set to what it is: whether that was allowed.
pub(crate) fn can_set_limits(pid: i32) -> bool {
    // SAFETY: both structs are live and of the right type; the first call only reads.
    unsafe {
        let mut now: libc::rlimit = zeroed();
        libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut now) == 0
            && libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const now, std::ptr::null_mut()) == 0
    }
}

/// The core file size limit of this process.
pub(crate) fn core_limit() -> u64 {
    // SAFETY: the struct is live and of the right type.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
        limit.rlim_max
    }
}

/// Whether the core file size limit of this process could be set to 0.
pub(crate) fn can_lower_core_limit() -> bool {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is live and of the right type.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) == 0 }
}

/// Whether the POSIX message queue `name` can be opened (`mq_open(3)`: the system call wants the name without its slash).
pub(crate) fn can_open_queue(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name is NUL-terminated and lives across the call; without O_CREAT nothing else is read.
    unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), libc::O_RDONLY, 0, 0) >= 0 }
}

/// Whether the SysV shared memory segment `id` can be seen.
pub(crate) fn can_see_shm(id: i32) -> bool {
    // SAFETY: the struct is live and of the right type.
    unsafe {
        let mut info: libc::shmid_ds = zeroed();
        libc::shmctl(id, libc::IPC_STAT, &raw mut info) == 0
    }
}
