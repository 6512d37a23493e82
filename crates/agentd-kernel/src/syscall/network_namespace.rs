//! Network namespaces, which a thread creates while its caller does other things, and UTS namespaces.

use super::{
    check,
    scheduling::leave_this_processor,
    sockets::loopback_up,
    stack::{Stack, stack},
};
use rustix::io::Errno;
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicI32, AtomicU32, Ordering},
};

/// Ioctl that returns a descriptor of a socket's network namespace (`linux/sockios.h`).
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// A thread that creates a network namespace and brings its loopback interface up. Dropping the value waits for the thread, which
/// ends by itself.
///
/// The helper must be a thread and not a process that shares memory. Once several processes have shared a memory, the kernel
/// keeps one out-of-memory score for all of them (`MMF_MULTIPROCESS`, `__set_oom_adj` in `fs/proc/base.c`). A newly started
/// command would then have the score of its supervisor.
pub struct NetworkMaker {
    /// Nonzero while the thread runs (`CLONE_CHILD_CLEARTID`).
    running: Box<AtomicU32>,
    /// The descriptor of the namespace, or a negated errno.
    answer: Box<AtomicI32>,
    _stack: Stack,
}

impl NetworkMaker {
    /// Starts the thread. The caller must be single-threaded. If `busy`, the thread runs on another processor, because the caller
    /// keeps using its own.
    pub fn start(busy: bool) -> Result<Self, Errno> {
        extern "C" fn body(answer: *mut libc::c_void) -> libc::c_int {
            let made = make_network().unwrap_or_else(|errno| -errno.raw_os_error());
            // SAFETY: the parent keeps the value alive until this thread has ended.
            unsafe { &*answer.cast::<AtomicI32>() }.store(made, Ordering::Release);
            0
        }
        let mut stack = stack();
        let top = stack.as_mut_ptr_range().end;
        let (running, answer) = (Box::new(AtomicU32::new(1)), Box::new(AtomicI32::new(-libc::EPIPE)));
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_CHILD_CLEARTID;
        // SAFETY: `top` is the aligned end of a stack, `answer` and `running` are heap values, and all of them live until the
        // thread has ended. The body allocates nothing, takes no lock, and never returns into code of the parent. Both threads
        // share one thread-local storage area, so that a failing call of the body may set the parent's errno: then the parent
        // also fails.
        let thread = unsafe {
            libc::clone(
                body,
                top.cast(),
                flags,
                (&raw const *answer).cast_mut().cast::<libc::c_void>(),
                std::ptr::null_mut::<libc::pid_t>(),
                std::ptr::null_mut::<libc::c_void>(),
                running.as_ptr().cast::<libc::pid_t>(),
            )
        };
        let maker = Self { running, answer, _stack: stack };
        if let Err(errno) = check(libc::c_long::from(thread)) {
            maker.running.store(0, Ordering::Release);
            return Err(errno);
        }
        if busy {
            leave_this_processor(thread);
        }
        Ok(maker)
    }

    /// Waits for the end of the thread and returns a descriptor of the namespace.
    pub fn finish(self) -> Result<libc::c_int, Errno> {
        self.wait();
        let answer = self.answer.load(Ordering::Acquire);
        if answer < 0 { Err(Errno::from_raw_os_error(-answer)) } else { Ok(answer) }
    }

    fn wait(&self) {
        // The kernel clears `running` and wakes its waiters after the thread has left its stack (`set_tid_address(2)`).
        while self.running.load(Ordering::Acquire) != 0 {
            // SAFETY: `running` lives across the call, and the null timeout means none.
            unsafe {
                libc::syscall(libc::SYS_futex, self.running.as_ptr(), libc::FUTEX_WAIT, 1, std::ptr::null::<libc::timespec>())
            };
        }
    }
}

impl Drop for NetworkMaker {
    fn drop(&mut self) {
        self.wait();
    }
}

fn make_network() -> Result<libc::c_int, Errno> {
    // SAFETY: Rust relies on no property of the thread's network namespace.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    loopback_up(socket.as_fd())?;
    // Uses an ioctl on the socket, because /proc may be gone from the view by now. Parent and thread share one descriptor table.
    // SAFETY: this ioctl takes no argument and returns a descriptor.
    let namespace = check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }))?;
    Ok(libc::c_int::try_from(namespace).unwrap_or(-libc::EMFILE))
}

/// Moves the calling process into the network namespace of `number`, a descriptor from [`NetworkMaker::finish`], and closes the
/// descriptor.
pub fn enter_network(number: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the helper thread opened the descriptor in the shared table and has ended, so that nothing else owns it.
    let namespace = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: `setns` takes integers only; Rust relies on no property of the network namespace.
    check(libc::c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }))?;
    Ok(())
}

/// Moves this thread into a UTS namespace (`setns(2)`). `of` is a pidfd of a process in the namespace, or the opened namespace
/// file.
pub fn enter_host_name(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: `setns` takes integers only; Rust relies on no property of the UTS namespace.
    check(libc::c_long::from(unsafe { libc::setns(of.as_raw_fd(), libc::CLONE_NEWUTS) }))?;
    Ok(())
}
