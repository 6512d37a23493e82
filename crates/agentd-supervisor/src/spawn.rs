//! The short way between fork and exec.
//!
//! The child shares the supervisor's memory until it executes (`CLONE_VM | CLONE_VFORK`, as `posix_spawn(3)` does): copying page
//! tables would cost more than everything else here. So between [`start`]'s `clone` and `execve` nothing may allocate, lock,
//! unwind, or change memory other than the child's own [`Work`]. The supervisor is single-threaded and has no signal handlers.

use crate::protocol::SpawnStep;
use agentd_kernel::rlimit::RlimitPlan;
use rustix::io::Errno;
use std::{
    ffi::{CStr, CString},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// The child's stack. `execve` with a long argument list needs none of it: the kernel copies from where the strings are.
const STACK_BYTES: usize = 64 << 10;

/// What the child will execute.
pub enum Program {
    /// The first of these that exists and may be executed.
    Candidates(Vec<CString>),
    /// The file behind a descriptor (`execveat(2)`, `AT_EMPTY_PATH`).
    Image(OwnedFd),
}

/// A command, prepared so that the child needs no memory of its own.
pub struct Prepared {
    /// What to execute.
    pub program: Program,
    /// Arguments.
    pub argv: Vec<CString>,
    /// Environment, `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// Limits.
    pub rlimits: RlimitPlan,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub terminal: bool,
}

struct Work<'a> {
    prepared: &'a Prepared,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    stdio: [RawFd; 3],
    failure: Option<(SpawnStep, i32)>,
}

/// A stack for children, made once: only one child uses it at a time, because the supervisor waits until it has executed.
pub struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    /// A new stack.
    pub fn new() -> Self {
        // Not filled with anything: each page of it would be a page fault.
        Self(Box::new_uninit_slice(STACK_BYTES / size_of::<u128>()))
    }
}

/// Starts `prepared` with `stdio` as its descriptors 0 to 2; gives its pid.
pub fn start(prepared: &Prepared, stdio: [BorrowedFd<'_>; 3], stack: &mut Stack) -> Result<i32, (SpawnStep, i32)> {
    let pointers = |strings: &[CString]| {
        let mut list: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let mut work = Work {
        prepared,
        argv: pointers(&prepared.argv),
        env: pointers(&prepared.env),
        stdio: stdio.map(|fd| fd.as_raw_fd()),
        failure: None,
    };
    let top = stack.0.as_mut_ptr_range().end;
    // SAFETY: `top` is the 16-byte aligned end of a stack that outlives the child's use of it; with CLONE_VFORK this thread
    // stands still until the child has executed or exited, so `work` and `stack` are not used by both at once.
    let pid =
        unsafe { libc::clone(child, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut work).cast()) };
    if pid < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
        return Err((SpawnStep::Fork, errno));
    }
    match work.failure {
        None => Ok(pid),
        Some(failure) => {
            // SAFETY: a null status pointer is allowed; the child has exited and is ours.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Err(failure)
        }
    }
}

extern "C" fn child(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a pointer to a `Work` that nobody else uses until this function is done.
    let work = unsafe { &mut *argument.cast::<Work<'_>>() };
    work.failure = Some(execute(work));
    127
}

/// Returns only on failure. See the head of this file for what may be called here.
fn execute(work: &Work<'_>) -> (SpawnStep, i32) {
    let last = || Errno::from_io_error(&std::io::Error::last_os_error()).map_or(libc::EIO, Errno::raw_os_error);
    let prepared = work.prepared;
    // SAFETY: plain system calls on integers, and on memory that `Work` and constants own.
    unsafe {
        libc::setsid();
        for (target, source) in (0..).zip(work.stdio) {
            // `stdio` are above 2, because the supervisor keeps 0 to 2 open; so no step overwrites a later source.
            if libc::dup2(source, target) < 0 {
                return (SpawnStep::Fork, last());
            }
        }
        if prepared.terminal && libc::ioctl(0, libc::TIOCSCTTY as libc::Ioctl, 0) < 0 {
            return (SpawnStep::Fork, last());
        }
        // The leader adopts what its descendants orphan, so that its tree can be found while it lives (`prctl(2)`).
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        if libc::chdir(prepared.cwd.as_ptr()) < 0 {
            return (SpawnStep::Chdir, last());
        }
    }
    if let Err(errno) = prepared.rlimits.apply() {
        return (SpawnStep::Rlimits, errno.raw_os_error());
    }
    match &prepared.program {
        Program::Image(fd) => {
            // SAFETY: all pointers are to NUL-terminated strings and lists that `Work` owns.
            unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    work.argv.as_ptr(),
                    work.env.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
            }
            (SpawnStep::Exec, last())
        }
        Program::Candidates(paths) => {
            let mut worst = libc::ENOENT;
            for path in paths {
                // SAFETY: as above.
                unsafe { libc::execve(path.as_ptr(), work.argv.as_ptr(), work.env.as_ptr()) };
                match last() {
                    libc::ENOENT | libc::ENOTDIR => {}
                    libc::EACCES => worst = libc::EACCES,
                    errno => return (SpawnStep::Exec, errno),
                }
            }
            (SpawnStep::Exec, worst)
        }
    }
}

/// Where a program may be: itself when it has a `/`, else below each entry of `PATH` in `env`.
pub fn candidates(program: &CStr, env: &[CString]) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let path = env.iter().find_map(|v| v.to_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/usr/bin:/bin");
    path.split(|b| *b == b':')
        .filter(|dir| !dir.is_empty())
        .filter_map(|dir| CString::new([dir, b"/", program.to_bytes()].concat()).ok())
        .collect()
}
