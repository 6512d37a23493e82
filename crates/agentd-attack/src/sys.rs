//! System calls of the attacks.

use std::{ffi::CString, io, mem::zeroed};

/// Runs `body` in a child process that is killed after `seconds`. Returns the signal that ended the child, or 0.
pub(crate) fn in_child(seconds: u32, body: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: this program has a single thread when it attacks, so the child may run any code. It ends with `_exit`.
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

/// Makes a raw system call with integer arguments. Returns its errno, or 0 for success.
pub(crate) fn call(number: libc::c_long, args: [usize; 5]) -> i32 {
    // SAFETY: callers pass integers, null pointers, or addresses of values that live across the call.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// Makes a system call like [`call`] that creates a process; the child exits immediately.
pub(crate) fn call_forking(number: libc::c_long, args: [usize; 5]) -> i32 {
    // SAFETY: as for `call`. Without CLONE_VM the child has its own memory, and it exits immediately.
    unsafe {
        match libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
            0 => libc::_exit(0),
            _ => 0,
        }
    }
}

/// Opens a socket. Returns its descriptor, or the errno.
pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<i32, i32> {
    // SAFETY: integers only.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(-1)) } else { Ok(fd) }
}

/// Creates a file of type `kind` (`mknod(2)`).
pub(crate) fn mknod(path: &str, kind: libc::mode_t, device: u64) -> bool {
    let Ok(path) = CString::new(path) else { return false };
    // SAFETY: the path is NUL-terminated and lives across the call.
    unsafe { libc::mknod(path.as_ptr(), kind | 0o600, device) == 0 }
}

/// Calls the harmless `getpid` (number 20) through the 32-bit entry to the kernel, and returns whether the call succeeded.
#[cfg(target_arch = "x86_64")]
pub(crate) fn interrupt_entry() -> bool {
    let result: i32;
    // SAFETY: number 20 is getpid in the 32-bit system call table: it takes no argument and accesses no memory.
    unsafe { std::arch::asm!("int 0x80", inlateout("eax") 20 => result, options(nostack)) };
    result > 0
}

/// Returns false: this architecture has no such entry.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn interrupt_entry() -> bool {
    false
}

/// Returns whether the mount that contains `path` is read-only; `None` if the path does not exist.
pub(crate) fn is_read_only(path: &str) -> Option<bool> {
    let path = CString::new(path).ok()?;
    // SAFETY: the path is NUL-terminated, and the struct is live and of the right type.
    unsafe {
        let mut info: libc::statvfs = zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut info) == 0).then_some(info.f_flag & libc::ST_RDONLY != 0)
    }
}

/// Returns whether a signal could be sent to `pid`.
pub(crate) fn can_signal(pid: i32, signal: i32) -> bool {
    // SAFETY: integers only.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Sets the open files limit of `pid` to its current value, and returns whether the kernel allowed that.
pub(crate) fn can_set_limits(pid: i32) -> bool {
    // SAFETY: both structs are live and of the right type; the first call only reads.
    unsafe {
        let mut now: libc::rlimit = zeroed();
        libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut now) == 0
            && libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const now, std::ptr::null_mut()) == 0
    }
}

/// Returns, for each call that changes the scheduling of `pid`, whether the kernel allowed setting the current value.
pub(crate) fn can_reschedule(pid: i32) -> [(&'static str, bool); 6] {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: all structs are live and of the right type; the calls before the result only read.
    unsafe {
        let mut parameters: libc::sched_param = zeroed();
        let mut processors: libc::cpu_set_t = zeroed();
        libc::sched_getparam(pid, &raw mut parameters);
        libc::sched_getaffinity(pid, size_of::<libc::cpu_set_t>(), &raw mut processors);
        let nice = libc::getpriority(libc::PRIO_PROCESS, pid.unsigned_abs());
        let policy = libc::sched_getscheduler(pid);
        // Nice value and policy of `struct sched_attr` are those of the process; the first word is its size.
        let mut attributes = [0_u64; 6];
        libc::syscall(libc::SYS_sched_getattr, pid, attributes.as_mut_ptr(), size_of_val(&attributes), 0);
        let io = libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, pid);
        [
            ("setpriority", libc::setpriority(libc::PRIO_PROCESS, pid.unsigned_abs(), nice) == 0),
            ("sched_setscheduler", libc::sched_setscheduler(pid, policy, &raw const parameters) == 0),
            ("sched_setparam", libc::sched_setparam(pid, &raw const parameters) == 0),
            ("sched_setattr", libc::syscall(libc::SYS_sched_setattr, pid, attributes.as_ptr(), 0) == 0),
            ("sched_setaffinity", libc::sched_setaffinity(pid, size_of::<libc::cpu_set_t>(), &raw const processors) == 0),
            ("ioprio_set", libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, io) == 0),
        ]
    }
}

/// Returns the hard limit of this process's core file size, in bytes.
pub(crate) fn core_limit() -> u64 {
    // SAFETY: the struct is live and of the right type.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
        limit.rlim_max
    }
}

/// Tries to set the core file size limit of this process to 0, and returns whether it is 0 afterwards. The results of the calls
/// are ignored: the seccomp filter answers such a `setrlimit(2)` with success and does not execute it.
pub(crate) fn can_lower_core_limit() -> bool {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is live and of the right type.
    unsafe {
        let mut now: libc::rlimit = zeroed();
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::syscall(libc::SYS_setrlimit, libc::RLIMIT_CORE, &raw const none);
        libc::prlimit(0, libc::RLIMIT_CORE, &raw const none, &raw mut now);
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut now);
        now.rlim_cur == 0 || now.rlim_max == 0
    }
}

/// Returns whether the POSIX message queue `name` can be opened (`mq_open(3)`: the system call takes the name without its slash).
pub(crate) fn can_open_queue(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the name is NUL-terminated and lives across the call; without O_CREAT nothing else is read.
    unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), libc::O_RDONLY, 0, 0) >= 0 }
}

/// Returns whether the SysV shared memory segment `id` is visible.
pub(crate) fn can_see_shm(id: i32) -> bool {
    // SAFETY: the struct is live and of the right type.
    unsafe {
        let mut info: libc::shmid_ds = zeroed();
        libc::shmctl(id, libc::IPC_STAT, &raw mut info) == 0
    }
}
