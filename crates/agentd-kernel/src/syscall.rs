//! System calls that no safe crate wraps.

use rustix::io::Errno;
use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicI32, Ordering},
};

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

/// `IFF_UP | IFF_RUNNING`, as wide as `ifreq` has them.
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

/// Sets real, effective and saved ids of this (single-threaded) process.
pub fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integer arguments only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets the effective and permitted capability sets, and empties the inheritable one (`capset(2)`, version 3).
pub fn set_capabilities(kept: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let [low, high] = [kept & u64::from(u32::MAX), kept >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    // Effective, permitted, inheritable; of the lower 32 numbers, then of the upper ones.
    let data = [low, low, 0, high, high, 0];
    // SAFETY: version 3 reads a header and two triples of 32-bit words, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// Sets this thread's ids for access to files (`setfsuid(2)`, `setfsgid(2)`), the group's first: without its rights a user cannot set it.
pub fn set_fs_ids(user: u32, group: u32) -> Result<(), Errno> {
    // They do not fail, but give what was before; asked for what cannot be, they change nothing.
    // SAFETY: integers only.
    let after = unsafe {
        libc::setfsgid(group);
        libc::setfsuid(user);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if after == (user.cast_signed(), group.cast_signed()) { Ok(()) } else { Err(Errno::PERM) }
}

/// A process that shares this one's memory and descriptors, but not its namespaces. Killed and reaped when dropped.
pub struct Helper {
    pid: libc::pid_t,
    /// What it came to: a number that is not negative, or a negated errno. Shared with it.
    answer: Box<AtomicI32>,
    _stack: Box<[MaybeUninit<u128>]>,
}

/// Gives a descriptor of a socket's network namespace (`linux/sockios.h`).
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// Bytes of a helper's stack: it calls a handful of system calls.
const HELPER_STACK: usize = 16 << 10;

impl Helper {
    fn clone(flags: libc::c_int, body: extern "C" fn(*mut libc::c_void) -> libc::c_int) -> Result<Self, Errno> {
        // Not filled with anything: each page of it would be a page fault.
        let mut stack = Box::new_uninit_slice(HELPER_STACK / size_of::<u128>());
        let top = stack.as_mut_ptr_range().end;
        let answer = Box::new(AtomicI32::new(-libc::EPIPE));
        // SAFETY: `top` is the aligned end of a stack, and `answer` a value, that live until the helper has been reaped. The bodies
        // allocate nothing, take no lock, and never return into code of the parent's. Both share one thread area, so a failing
        // call of theirs may set the parent's errno: then the parent fails too.
        let pid = unsafe {
            libc::clone(body, top.cast(), flags | libc::CLONE_VM | libc::CLONE_FILES, (&raw const *answer).cast_mut().cast())
        };
        check(libc::c_long::from(pid))?;
        Ok(Self { pid, answer, _stack: stack })
    }

    /// A helper that does nothing, in a user namespace of its own.
    pub fn in_user_namespace() -> Result<Self, Errno> {
        extern "C" fn body(_: *mut libc::c_void) -> libc::c_int {
            loop {
                // SAFETY: pause(2) touches no memory.
                unsafe { libc::pause() };
            }
        }
        Self::clone(libc::CLONE_NEWUSER, body)
    }

    /// A helper that makes a network namespace and brings its loopback up. [`Helper::finish`] gives a descriptor of it.
    pub fn make_network() -> Result<Self, Errno> {
        extern "C" fn body(answer: *mut libc::c_void) -> libc::c_int {
            let made = make_network().unwrap_or_else(|errno| -errno.raw_os_error());
            // SAFETY: the parent keeps the value until this helper has been reaped.
            unsafe { &*answer.cast::<AtomicI32>() }.store(made, Ordering::Release);
            0
        }
        let helper = Self::clone(0, body)?;
        leave_this_processor(helper.pid);
        Ok(helper)
    }

    /// Its pid.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Waits for its end; gives its answer.
    pub fn finish(mut self) -> Result<i32, Errno> {
        self.reap();
        let answer = self.answer.load(Ordering::Acquire);
        if answer < 0 { Err(Errno::from_raw_os_error(-answer)) } else { Ok(answer) }
    }

    fn reap(&mut self) {
        // Without an exit signal a child needs __WALL.
        // SAFETY: integers and a null status pointer, which waitpid(2) allows.
        while unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) } < 0
            && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
        {}
        self.pid = 0;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.pid > 0 {
            // SAFETY: integers only; it is not reaped yet, so the pid is its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.reap();
        }
    }
}

/// Keeps a new process off the processor of this one, which goes on working: the scheduler, seeing the others busy for a moment
/// longer, would queue it here. Where there is no other processor nothing is changed.
fn leave_this_processor(pid: libc::pid_t) {
    let Ok(mut others) = rustix::thread::sched_getaffinity(None) else { return };
    others.unset(rustix::thread::sched_getcpu());
    if others.count() > 0 {
        // It is a matter of speed only.
        rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(pid), &others).ok();
    }
}

fn make_network() -> Result<libc::c_int, Errno> {
    // SAFETY: the helper's own network namespace is nothing that Rust relies on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    loopback_up(socket.as_fd())?;
    // By way of the socket, because /proc may be gone from the view by now. The descriptor table is the parent's too.
    // SAFETY: this ioctl takes no argument and returns a descriptor.
    let namespace = check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }))?;
    Ok(libc::c_int::try_from(namespace).unwrap_or(-libc::EMFILE))
}

/// Moves the calling process into the network namespace that [`Helper::finish`] gave the number of, and closes that.
pub fn enter_network(number: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the helper opened it in the shared table and is gone.
    let namespace = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: integers only; the network namespace is nothing that Rust relies on.
    check(libc::c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }))?;
    Ok(())
}

/// Moves this thread into the UTS namespace that `of` is a pidfd of a member of, or is opened on (`setns(2)`).
pub fn enter_host_name(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: integers only; the host name is nothing that Rust relies on.
    check(libc::c_long::from(unsafe { libc::setns(of.as_raw_fd(), libc::CLONE_NEWUTS) }))?;
    Ok(())
}

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` (`random(4)`).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Bytes of a seed.
pub const SEED: usize = 32;
const SEED_BYTES: libc::c_int = 32;

/// Mixes `seed` into the kernel's pool, counted as entropy, and has its generator seeded anew from that. Needs `CAP_SYS_ADMIN`.
pub fn seed_random(device: BorrowedFd<'_>, seed: &[u8; SEED]) -> Result<(), Errno> {
    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        bytes: libc::c_int,
        seed: [u8; SEED],
    }
    let pool = Pool { bits: 8 * SEED_BYTES, bytes: SEED_BYTES, seed: *seed };
    // SAFETY: `pool` is laid out as the kernel's structure, states its own length, and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) }))?;
    // SAFETY: this ioctl takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }))?;
    Ok(())
}

/// `FIFREEZE` and `FITHAW` (`linux/fs.h`). What they are said to read and write is left alone.
const FREEZE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 119);
const THAW: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<libc::c_int>(b'X', 120);

/// Writes all that is only in memory of the file system that `of` is in, and holds up whoever writes to it from then on.
pub fn freeze(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the operation is one of `ioctl(2)`'s, and the kernel neither reads nor writes an argument.
    unsafe { rustix::ioctl::ioctl(of, rustix::ioctl::NoArg::<FREEZE>::new()) }
}

/// Lets a file system go on.
pub fn thaw(of: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(of, rustix::ioctl::NoArg::<THAW>::new()) }
}

/// `LOOP_CTL_GET_FREE` (`linux/loop.h`).
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

/// `LOOP_CONFIGURE`, since Linux 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;

/// `LO_FLAGS_AUTOCLEAR` and `LO_FLAGS_DIRECT_IO`. The kernel drops the second where the file's file system has no direct I/O.
const LOOP_FLAGS: u32 = 4 | 16;

/// The number of a loop device that is free at this moment, of a new one if none is (`loop(4)`).
pub fn free_loop_device(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: this ioctl takes no argument and returns a number.
    let number = check(libc::c_long::from(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }))?;
    u32::try_from(number).map_err(|_| Errno::NODEV)
}

/// Makes `device` show `file` in blocks of `block` bytes, until nobody has it open (`loop(4)`, `LOOP_CONFIGURE`).
pub fn configure_loop_device(device: BorrowedFd<'_>, file: BorrowedFd<'_>, block: u32) -> Result<(), Errno> {
    /// `struct loop_config` with the `struct loop_info64` in it.
    #[repr(C)]
    struct Config {
        file: u32,
        block: u32,
        /// Device, inode, device of the node, offset, size limit.
        numbers: [u64; 5],
        /// Number, kind of encryption, size of its key.
        more: [u32; 3],
        flags: u32,
        /// File name, name and key of the encryption.
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
    // SAFETY: `config` is laid out as the kernel's structure, has its size, and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }))?;
    Ok(())
}

/// Has every descriptor above 2 closed when this process executes another program (`close_range(2)`).
pub fn close_others_on_exec() -> Result<(), Errno> {
    // SAFETY: integers only; no descriptor is closed in this process.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// `bind(2)` to an address of `vsock(7)`.
pub fn bind_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    let (address, length) = vsock_address(cid, port);
    // SAFETY: `address` is a complete address of its family, its length is given, and it lives across the call.
    check(libc::c_long::from(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(())
}

/// `connect(2)` to an address of `vsock(7)`.
pub fn connect_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    let (address, length) = vsock_address(cid, port);
    // SAFETY: as in `bind_vsock`.
    check(libc::c_long::from(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(())
}

/// `AF_VSOCK`, as wide as `sockaddr_vm` has it, and the size of that.
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
