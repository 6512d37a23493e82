//! Starts commands: the code between fork and exec.
//!
//! The child shares the supervisor's memory until `execve` (`CLONE_VM | CLONE_VFORK`, as in `posix_spawn(3)`), because copying
//! page tables would cost more than all other steps together. Between the `clone` in [`start`] and `execve`, no code may
//! therefore allocate, lock, unwind, or change memory other than the child's own [`ChildWork`]. The supervisor is single-threaded
//! and has no signal handlers.

use crate::protocol::SpawnStep;
use agentd_kernel::rlimit::RlimitPlan;
use rustix::io::Errno;
use std::{
    ffi::{CStr, CString},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// Size of the child's stack. A long argument list for `execve` needs no stack: the kernel copies the strings from where they
/// are.
const STACK_BYTES: usize = 64 << 10;

/// The program that the child executes.
pub enum Program {
    /// The first of these paths that exists and is executable.
    Candidates(Vec<CString>),
    /// The file behind a descriptor (`execveat(2)`, `AT_EMPTY_PATH`).
    Image(OwnedFd),
}

/// A command, prepared so that the child needs no memory allocation.
pub struct PreparedCommand {
    /// The program to execute.
    pub program: Program,
    /// Arguments.
    pub argv: Vec<CString>,
    /// Environment, `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// Limits.
    pub rlimits: RlimitPlan,
    /// True if standard output is a terminal that becomes the controlling terminal.
    pub terminal: bool,
}

struct ChildWork<'a> {
    prepared: &'a PreparedCommand,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    stdio: [RawFd; 3],
    failure: Option<(SpawnStep, i32)>,
}

/// The stack for children, allocated once. Only one child uses it at a time, because the supervisor waits until the child has
/// executed its program.
pub struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    /// Allocates the stack.
    pub fn new() -> Self {
        // Left uninitialised: writing to it would cause a page fault for each page.
        Self(Box::new_uninit_slice(STACK_BYTES / size_of::<u128>()))
    }
}

/// Starts `prepared` with `stdio` as its descriptors 0 to 2; returns its pid.
///
/// # Errors
/// The step that failed, and its errno.
pub fn start(prepared: &PreparedCommand, stdio: [BorrowedFd<'_>; 3], stack: &mut Stack) -> Result<i32, (SpawnStep, i32)> {
    let pointers = |strings: &[CString]| {
        let mut list: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let mut work = ChildWork {
        prepared,
        argv: pointers(&prepared.argv),
        env: pointers(&prepared.env),
        stdio: stdio.map(|fd| fd.as_raw_fd()),
        failure: None,
    };
    let upper = stack.0.as_mut_ptr_range().end;
    // SAFETY: `upper` is the 16-byte aligned end of a stack that outlives the child's use of it. With CLONE_VFORK this thread is
    // suspended until the child has executed or exited, so parent and child never use `work` and `stack` at once.
    let pid =
        unsafe { libc::clone(child, upper.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut work).cast()) };
    if pid < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
        return Err((SpawnStep::Fork, errno));
    }
    match work.failure {
        None => Ok(pid),
        Some(failure) => {
            // SAFETY: a null status pointer is allowed; the child has exited, and it is a child of this process.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            Err(failure)
        }
    }
}

extern "C" fn child(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a pointer to a `ChildWork` that nothing else uses until this function returns.
    let work = unsafe { &mut *argument.cast::<ChildWork<'_>>() };
    work.failure = Some(execute(work));
    127
}

/// Executes the command; returns only on failure. The module documentation states which calls are allowed here.
fn execute(work: &ChildWork<'_>) -> (SpawnStep, i32) {
    let last = || Errno::from_io_error(&std::io::Error::last_os_error()).map_or(libc::EIO, Errno::raw_os_error);
    let prepared = work.prepared;
    // SAFETY: system calls on integers, and on memory that `ChildWork` and constants own.
    unsafe {
        libc::setsid();
        for (target, source) in (0..).zip(work.stdio) {
            // The descriptors in `stdio` are above 2, because the supervisor keeps 0 to 2 open. So no `dup2` overwrites a later
            // source.
            if libc::dup2(source, target) < 0 {
                return (SpawnStep::Fork, last());
            }
        }
        if prepared.terminal && libc::ioctl(1, libc::TIOCSCTTY as libc::Ioctl, 0) < 0 {
            return (SpawnStep::Fork, last());
        }
        // The leader adopts its orphaned descendants, so that its tree can be found while the leader is alive (`prctl(2)`).
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
            // SAFETY: all pointers are to NUL-terminated strings and lists that `ChildWork` owns.
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
                // SAFETY: all pointers are to NUL-terminated strings and lists that `ChildWork` owns.
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

/// Returns the paths at which a program may be: the program itself if it contains a `/`, else one path for each entry of `PATH`
/// in `env`.
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
