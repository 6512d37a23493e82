//! System calls and ioctls that no safe crate wraps. Each function checks the result and returns the errno.

use rustix::io::Errno;
use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering},
};

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(result)
}

/// One bit for each standard descriptor that was closed when the program started. Before `main`, std opens `/dev/null` for such a
/// descriptor, so that later writes to it succeed and are lost.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Makes the C library call [`note_closed`] before std starts (System V ABI, `.init_array`).
// SAFETY: the section holds pointers to functions with this signature, and `note_closed` uses nothing that std must set up.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_CLOSED: extern "C" fn() = note_closed;

extern "C" fn note_closed() {
    for fd in 0..3 {
        // SAFETY: `F_GETFD` takes no further argument, and any descriptor number may be queried.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

/// Returns true if standard output was closed when the program started. Data written to standard output is lost then.
pub fn stdout_was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << 1) != 0
}

/// `clone(2)`. The type of the libc constant is too narrow for this value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The result of `clone3`, in either process.
pub enum Cloned {
    /// Returned in the new process.
    Child,
    /// Returned in the caller: the child's pid and pidfd.
    Parent(i32, OwnedFd),
}

/// Calls `clone3(2)` with a copy of the address space, like `fork(2)`.
///
/// # Safety
/// The caller must be single-threaded: the child continues with a copy of this process, in which locks held by other threads
/// would stay locked forever.
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
    // SAFETY: `args` lives across the call and its size is passed; without CLONE_VM the child has its own copy of the stack.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor that nothing else owns.
    Ok(Cloned::Parent(i32::try_from(pid).unwrap_or(-1), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Maximum size of a file handle in bytes (`name_to_handle_at(2)`, `MAX_HANDLE_SZ`).
const MAX_HANDLE: usize = 128;

/// Returns type and bytes of the file handle of the object that `fd` refers to, with the bytes in hexadecimal digits. Returns
/// `None` if its file system has no handles.
pub fn file_handle(fd: BorrowedFd<'_>) -> Option<String> {
    use std::fmt::Write;
    /// `struct file_handle`, with space for the longest handle.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; MAX_HANDLE],
    }
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; MAX_HANDLE] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a NUL-terminated constant; `handle` states its capacity; `handle` and `mount` live across the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    })
    .ok()?;
    let mut text = format!("{}:", handle.kind);
    for byte in handle.handle.get(..usize::try_from(handle.bytes).ok()?)? {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}

/// Returns the file system id of `fd` (`fstatfs(2)`, `f_fsid`).
pub fn filesystem_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `stat` is large enough for the structure and lives across the call.
    check(libc::c_long::from(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) }))?;
    // SAFETY: all-zero is a valid `statfs`, and `fsid_t` is two 32-bit integers without padding, as wide as a `u64`.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, u64>(stat.assume_init().f_fsid) })
}

/// Calls `mount_setattr(2)` on the mount that `tree` refers to, and on all mounts below if `recursive`.
pub fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, set: u64, userns: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` lives across the call and its size is passed.
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

/// Calls `prctl(2)` with integer arguments.
pub fn prctl(option: libc::c_int, arg2: libc::c_ulong, arg3: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the options used in this crate take integers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, arg2, arg3, 0, 0) }))?;
    Ok(())
}

/// Installs a filter on the calling thread and returns the descriptor of its listener (`seccomp(2)`,
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`). The kernel sets close-on-exec on the descriptor.
pub fn install_filter_with_listener(program: &[seccompiler::sock_filter]) -> Result<OwnedFd, Errno> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    // Both types are the kernel's `struct sock_filter`. The kernel only reads the program, so the cast to a mutable pointer is
    // sound.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: `program` and the instructions it points to live across the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// `SECCOMP_IOCTL_NOTIF_RECV`, `SECCOMP_IOCTL_NOTIF_SEND` and `SECCOMP_IOCTL_NOTIF_ID_VALID` (`linux/seccomp.h`).
const NOTIFICATION_RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const NOTIFICATION_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
const NOTIFICATION_IS_VALID: libc::Ioctl = 0x4008_2102;

/// Waits for the next call that a filter passes to its listener (`seccomp_unotify(2)`).
pub fn receive_notification(listener: BorrowedFd<'_>) -> Result<libc::seccomp_notif, Errno> {
    // SAFETY: all-zero is a valid notification, and the kernel requires a zeroed one.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the ioctl writes one `seccomp_notif`, which lives across the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_RECEIVE, &raw mut notification) }.into())?;
    Ok(notification)
}

/// Returns true if the thread of a notification still waits for its answer.
pub fn notification_is_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the ioctl reads one 64-bit number, which lives across the call.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_IS_VALID, &raw const id) == 0 }
}

/// Makes the call of a notification return 0 or an error.
pub fn answer_notification(listener: BorrowedFd<'_>, id: u64, result: Result<(), Errno>) -> Result<(), Errno> {
    let error = result.err().map_or(0, |errno| -errno.raw_os_error());
    send_answer(listener, libc::seccomp_notif_resp { id, val: 0, error, flags: 0 })
}

/// Makes the kernel continue the call of a notification (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`).
pub fn continue_notification(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    send_answer(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 1 })
}

fn send_answer(listener: BorrowedFd<'_>, mut response: libc::seccomp_notif_resp) -> Result<(), Errno> {
    // SAFETY: the ioctl reads one `seccomp_notif_resp`, which lives across the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_SEND, &raw mut response) }.into())?;
    Ok(())
}

/// Reads another process's memory (`process_vm_readv(2)`) and returns the number of bytes read into `buffer`. The kernel stops at
/// an unmapped page.
pub fn read_memory(thread: libc::pid_t, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the local range is the buffer; the remote range is not dereferenced in this process.
    let read = check(unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) } as libc::c_long)?;
    Ok(usize::try_from(read).unwrap_or(0).min(buffer.len()))
}

/// Makes a call that changes scheduling. `input` replaces the pointer argument with that index.
pub fn reschedule(number: libc::c_long, mut arguments: [u64; 3], input: Option<(usize, &mut [u8])>) -> Result<(), Errno> {
    if let Some((index, content)) = input {
        arguments[index] = content.as_mut_ptr() as u64;
    }
    let [first, second, third] = arguments;
    // SAFETY: each pointer argument points to a buffer that lives across the call. The kernel accesses at most the length that is
    // passed for a mask, the size of `struct sched_param`, or the size field of `struct sched_attr`. The flags are 0.
    check(unsafe { libc::syscall(number, first, second, third) })?;
    Ok(())
}

/// Ignores the signals 32 and 33, or restores their default action, which is to end the process. The C library reserves both for
/// its threads (`signal(7)`), and installs its own handlers when it needs them. Its functions refuse these numbers, and it
/// unblocks 32 in new threads, so that blocking would not suffice.
///
/// # Errors
/// The errno of `rt_sigaction(2)`.
pub fn set_reserved_signals(ignored: bool) -> Result<(), Errno> {
    // `struct sigaction` of the kernel: handler, flags, restorer and mask.
    let action: [u64; 4] = [if ignored { libc::SIG_IGN as u64 } else { libc::SIG_DFL as u64 }, 0, 0, 0];
    for number in [32, 33] {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads `action`, which lives across the call. Neither action executes code of this process.
        check(unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), none, size_of::<u64>()) })?;
    }
    Ok(())
}

/// Returns the session of a thread (`getsid(2)`).
pub fn session(thread: i32) -> Result<i32, Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::getsid(thread) }.into()).map(|id| i32::try_from(id).unwrap_or(0))
}

/// Returns the process group of a process (`getpgid(2)`).
pub fn process_group(process: i32) -> Result<i32, Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::getpgid(process) }.into()).map(|id| i32::try_from(id).unwrap_or(0))
}

/// Sets the nice value of a thread to its present value. `EPERM` if the thread has neither the real nor the effective user id of
/// the caller (`setpriority(2)`).
pub fn keep_priority(thread: i32) -> Result<(), Errno> {
    let target = libc::c_long::from(thread);
    let process = libc::c_long::from(libc::PRIO_PROCESS);
    // SAFETY: integers only. The system call returns 20 minus the nice value.
    let nice = 20 - check(unsafe { libc::syscall(libc::SYS_getpriority, process, target) })?;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setpriority, process, target, nice) })?;
    Ok(())
}

/// Returns the Landlock ABI version of this kernel, 0 for none (`landlock_create_ruleset(2)`, `LANDLOCK_CREATE_RULESET_VERSION`).
pub fn landlock_abi() -> i32 {
    // SAFETY: with the version flag the kernel reads no memory of this process.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    i32::try_from(abi).unwrap_or(0).max(0)
}

/// Joins a new anonymous session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`).
pub fn join_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name requests an anonymous keyring; the kernel reads no memory of this process.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<u8>()) })?;
    Ok(())
}

/// `IFF_UP | IFF_RUNNING`, in the type of `ifr_flags`.
const LOOPBACK_FLAGS: libc::c_short = 0x41;

/// Brings the interface `lo` up (`netdevice(7)`).
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = LOOPBACK_FLAGS;
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
    // Both calls return the previous id and never report an error. Setting an invalid id changes nothing, which reads the current
    // id.
    // SAFETY: both calls take integers only.
    let after = unsafe {
        libc::setfsgid(group);
        libc::setfsuid(user);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if after == (user.cast_signed(), group.cast_signed()) { Ok(()) } else { Err(Errno::PERM) }
}

/// An idle process in its own user namespace, killed and reaped when dropped.
pub struct Helper {
    pid: libc::pid_t,
    _stack: Stack,
}

/// A stack of 16 KiB, which suffices for a few system calls. Left uninitialized, because writing each page would cause a page
/// fault.
type Stack = Box<[MaybeUninit<u128>]>;

fn stack() -> Stack {
    Box::new_uninit_slice((16 << 10) / size_of::<u128>())
}

/// Ioctl that returns a descriptor of a socket's network namespace (`linux/sockios.h`).
const SIOCGSKNS: libc::Ioctl = 0x894c;

impl Helper {
    /// Starts a helper process in a new user namespace.
    pub fn in_user_namespace() -> Result<Self, Errno> {
        extern "C" fn body(_: *mut libc::c_void) -> libc::c_int {
            loop {
                // SAFETY: pause(2) touches no memory.
                unsafe { libc::pause() };
            }
        }
        let mut stack = stack();
        let top = stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_FILES;
        // SAFETY: `top` is the aligned end of a stack that lives until the helper has been reaped. The body allocates nothing,
        // takes no lock, and never returns into code of the parent.
        let pid = unsafe { libc::clone(body, top.cast(), flags, std::ptr::null_mut()) };
        check(libc::c_long::from(pid))?;
        Ok(Self { pid, _stack: stack })
    }

    /// Returns the pid of the helper.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // SAFETY: `kill` takes integers only. The helper has not been reaped, so its pid cannot name another process.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // A child without an exit signal can be waited for with __WALL only.
        // SAFETY: the arguments are integers and a null status pointer, which waitpid(2) allows.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
        {}
    }
}

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
    /// Starts the thread. The caller must be single-threaded.
    pub fn start() -> Result<Self, Errno> {
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
        // fails too.
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
        leave_this_processor(thread);
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

/// Keeps a new thread off the current processor, on which the caller continues to work. Otherwise the scheduler, which may see
/// the other processors as busy for a moment longer, would queue the thread here. Without another processor nothing changes.
fn leave_this_processor(pid: libc::pid_t) {
    let Ok(mut others) = rustix::thread::sched_getaffinity(None) else { return };
    others.unset(rustix::thread::sched_getcpu());
    if others.count() > 0 {
        // A failure costs speed only.
        rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(pid), &others).ok();
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

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` (`random(4)`).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Size of a seed in bytes.
pub const SEED: usize = 32;
const SEED_BYTES: libc::c_int = 32;

/// Mixes `seed` into the kernel's entropy pool, credits it as entropy, and reseeds the generator from the pool. Needs
/// `CAP_SYS_ADMIN`.
pub fn seed_random(device: BorrowedFd<'_>, seed: &[u8; SEED]) -> Result<(), Errno> {
    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        bytes: libc::c_int,
        seed: [u8; SEED],
    }
    let pool = Pool { bits: 8 * SEED_BYTES, bytes: SEED_BYTES, seed: *seed };
    // SAFETY: `pool` has the layout of the kernel's structure, states its own length, and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) }))?;
    // SAFETY: this ioctl takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }))?;
    Ok(())
}

/// `FIFREEZE` and `FITHAW` (`linux/fs.h`). Their numbers encode an `int` argument, which the kernel neither reads nor writes.
const FREEZE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 119);
const THAW: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 120);

/// Writes all dirty data of the file system that contains `of`, and blocks later writes to it.
pub fn freeze(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the operation is an ioctl (`ioctl(2)`) for which the kernel neither reads nor writes an argument.
    unsafe { rustix::ioctl::ioctl(of, rustix::ioctl::NoArg::<FREEZE>::new()) }
}

/// Thaws the file system that contains `of`.
pub fn thaw(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: as in `freeze`.
    unsafe { rustix::ioctl::ioctl(of, rustix::ioctl::NoArg::<THAW>::new()) }
}

/// `LOOP_CTL_GET_FREE` (`linux/loop.h`).
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

/// `LOOP_CONFIGURE`, since Linux 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;

/// `LO_FLAGS_AUTOCLEAR` and `LO_FLAGS_DIRECT_IO`. The kernel ignores the second if the file system of the backing file has no
/// direct I/O.
const LOOP_FLAGS: u32 = 4 | 16;

/// Returns the number of a loop device that is currently free. The kernel creates a device if none is free (`loop(4)`).
pub fn free_loop_device(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: this ioctl takes no argument and returns a number.
    let number = check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }))?;
    u32::try_from(number).map_err(|_| Errno::NODEV)
}

/// Attaches `file` to `device` with blocks of `block` bytes, until the last user closes the device (`loop(4)`, `LOOP_CONFIGURE`).
pub fn configure_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block: u32) -> Result<(), Errno> {
    /// `struct loop_config`, including its `struct loop_info64`.
    #[repr(C)]
    struct Config {
        file: u32,
        block: u32,
        /// Device, inode, device of the node, offset, size limit.
        numbers: [u64; 5],
        /// Number, encryption type, encryption key size.
        more: [u32; 3],
        flags: u32,
        /// File name, encryption name, encryption key.
        names: [u8; 160],
        init: [u64; 2],
        reserved: [u64; 8],
    }
    const { assert!(size_of::<Config>() == 304) };
    let config = Config {
        file: file.as_raw_fd().unsigned_abs(),
        block,
        numbers: [0; 5],
        more: [0; 3],
        flags: LOOP_FLAGS,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout and the size of the kernel's structure, and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }))?;
    Ok(())
}

/// Sets close-on-exec on every descriptor above 2 (`close_range(2)`).
pub fn close_others_on_exec() -> Result<(), Errno> {
    // SAFETY: the call takes integers only, and closes no descriptor in this process.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Size of a processor mask in words: sufficient for most kernels, and an upper bound that no kernel reaches (`CONFIG_NR_CPUS`).
const MASK_WORDS: usize = 1024 / libc::c_ulong::BITS as usize;
const MOST_MASK_WORDS: usize = 64 * MASK_WORDS;

/// Returns the processors that this process may run on (`sched_getaffinity(2)`), in ascending order.
pub fn affinity() -> Result<Vec<usize>, Errno> {
    affinity_from(MASK_WORDS)
}

/// Implements [`affinity`], with an initial mask of `words` words. The kernel returns `EINVAL` for a mask shorter than its own.
fn affinity_from(mut words: usize) -> Result<Vec<usize>, Errno> {
    loop {
        let mut mask: Vec<libc::c_ulong> = vec![0; words];
        // SAFETY: the kernel writes at most the size of `mask`, which is passed, and every content is valid.
        let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(mask.as_slice()), mask.as_mut_ptr()) };
        match check(got) {
            Err(Errno::INVAL) if words < MOST_MASK_WORDS => words = (2 * words).max(1),
            got => return got.map(|_| numbers(&mask)),
        }
    }
}

/// Returns the positions of the set bits.
fn numbers(mask: &[libc::c_ulong]) -> Vec<usize> {
    let word = libc::c_ulong::BITS as usize;
    (0..mask.len() * word).filter(|number| mask[number / word] >> (number % word) & 1 == 1).collect()
}

/// Restricts this process and its future children to `processors` (`sched_setaffinity(2)`).
pub fn set_affinity(processors: &[usize]) -> Result<(), Errno> {
    let mask = mask(processors);
    // SAFETY: the kernel reads at most the size of `mask`, which is passed.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask.as_slice()), mask.as_ptr()) })?;
    Ok(())
}

/// Returns a mask with the bits at these positions set.
fn mask(processors: &[usize]) -> Vec<libc::c_ulong> {
    let word = libc::c_ulong::BITS as usize;
    let mut mask = vec![0; processors.iter().max().map_or(0, |last| last / word + 1)];
    processors.iter().for_each(|number| mask[number / word] |= 1 << (number % word));
    mask
}

/// Returns the credentials of the process that connected `socket` (`unix(7)`, `SO_PEERCRED`). The pid is 0 if that process is
/// neither in this PID namespace nor in one below it.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<libc::ucred, Errno> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length: libc::socklen_t = 12;
    const { assert!(size_of::<libc::ucred>() == 12) };
    // SAFETY: `peer` and `length` live across the call, `length` is the size of `peer`, and every content of `peer` is valid.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length)
    };
    check(libc::c_long::from(got))?;
    Ok(peer)
}

/// Returns a pidfd of the process that connected `socket` (`unix(7)`, `SO_PEERPIDFD`, since Linux 6.5). Fails with `ENOPROTOOPT`
/// on older kernels. If that process has been reaped, fails with `EINVAL` before Linux 6.16 and with `ESRCH` later.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut pidfd: libc::c_int = -1;
    let mut length: libc::socklen_t = 4;
    const { assert!(size_of::<libc::c_int>() == 4) };
    // SAFETY: `pidfd` and `length` live across the call, and `length` is the size of `pidfd`.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERPIDFD, (&raw mut pidfd).cast(), &raw mut length)
    };
    check(libc::c_long::from(got))?;
    // SAFETY: the call succeeded, so that `pidfd` is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// Binds a socket to an address of `vsock(7)` (`bind(2)`).
pub fn bind_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    let (address, length) = vsock_address(cid, port);
    // SAFETY: `address` is a complete address of its family, its length is passed, and it lives across the call.
    check(libc::c_long::from(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(())
}

/// Connects a socket to an address of `vsock(7)` (`connect(2)`).
pub fn connect_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    let (address, length) = vsock_address(cid, port);
    // SAFETY: as in `bind_vsock`.
    check(libc::c_long::from(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(())
}

/// `AF_VSOCK` in the type of `svm_family`, and the size of `sockaddr_vm` in bytes.
const AF_VSOCK: libc::sa_family_t = 40;
const VSOCK_ADDRESS: libc::socklen_t = 16;
const _: () = assert!(AF_VSOCK as libc::c_int == libc::AF_VSOCK && VSOCK_ADDRESS as usize == size_of::<libc::sockaddr_vm>());

fn vsock_address(cid: u32, port: u32) -> (libc::sockaddr_vm, libc::socklen_t) {
    // SAFETY: all-zero is a valid `sockaddr_vm`.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    (address, VSOCK_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_with_too_short_first_mask_is_complete() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let expected: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number)).collect();
        assert_eq!(affinity_from(0).unwrap(), expected);
        assert_eq!(affinity_from(MOST_MASK_WORDS).unwrap(), expected);
    }

    #[test]
    fn affinity_mask_covers_processors_beyond_1024() {
        assert_eq!(numbers(&mask(&[0, 63, 64, 1024, 4097])), [0, 63, 64, 1024, 4097]);
        assert_eq!(mask(&[]), []);
    }
}
