use super::*;
use crate::privileges;

/// A name, a call, and the errno it must come to.
type Attempt = (&'static str, fn() -> libc::c_long, i32);

const PROFILES: [Profile; 3] = [Profile::Strict, Profile::Default, Profile::Permissive];

/// Runs `attempt` in a child under the filter; gives its errno (0 for success), or the negated signal that killed it.
fn under(profile: Profile, attempt: fn() -> libc::c_long) -> i32 {
    let program = SeccompPlan { profile, network: Network::Off, set_ids: false }.compile();
    // SAFETY: the child calls only what is needed to install the filter and make the attempt, then exits.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            if privileges::no_new_privs().is_err() || apply(&program).is_err() {
                libc::_exit(250);
            }
            let result = attempt();
            libc::_exit(if result < 0 { *libc::__errno_location() } else { 0 });
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        if libc::WIFSIGNALED(status) { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
    }
}

macro_rules! call {
    // SAFETY: each argument is an integer or a pointer to a constant; the calls are refused or harmless.
    ($($argument:expr),+) => { || unsafe { libc::syscall($($argument),+) } };
}

#[test]
fn dangerous_calls_are_refused_in_every_profile() {
    let attempts: [Attempt; 31] = [
        ("unshare user", call!(libc::SYS_unshare, libc::CLONE_NEWUSER), libc::EPERM),
        ("clone user", call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0), libc::EPERM),
        ("clone3", call!(libc::SYS_clone3, 0, 0), libc::ENOSYS),
        ("mount", call!(libc::SYS_mount, 0, 0, 0, 0, 0), libc::EPERM),
        ("setns", call!(libc::SYS_setns, -1, 0), libc::EPERM),
        ("bpf", call!(libc::SYS_bpf, 0, 0, 0), libc::EPERM),
        ("perf", call!(libc::SYS_perf_event_open, 0, 0, 0, 0, 0), libc::EPERM),
        ("userfaultfd", call!(libc::SYS_userfaultfd, 1), libc::EPERM),
        ("io_uring", call!(libc::SYS_io_uring_setup, 1, 0), libc::ENOSYS),
        ("keyctl", call!(libc::SYS_keyctl, 0, -3, 0), libc::EPERM),
        ("add_key", call!(libc::SYS_add_key, 0, 0, 0, 0, 0), libc::EPERM),
        ("open_by_handle_at", call!(libc::SYS_open_by_handle_at, -1, 0, 0), libc::EPERM),
        ("personality", call!(libc::SYS_personality, 0x0040_0000), libc::EPERM),
        ("TIOCSTI", call!(libc::SYS_ioctl, -1, 0x5412, 0), libc::EPERM),
        ("TIOCSTI with high bits", call!(libc::SYS_ioctl, -1, 0x1_0000_5412_u64, 0), libc::EPERM),
        ("TIOCLINUX", call!(libc::SYS_ioctl, -1, 0x541c, 0), libc::EPERM),
        ("vsock", call!(libc::SYS_socket, 40, libc::SOCK_STREAM, 0), libc::EPERM),
        ("packet socket", call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0), libc::EPERM),
        ("netfilter", call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 12), libc::EPERM),
        ("limits of another process", call!(libc::SYS_prlimit64, 1, 7, 0, 0), libc::EPERM),
        ("the core limit", call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 8, 0), libc::EPERM),
        ("the core limit from a high address", call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 1_u64 << 32, 0), libc::EPERM),
        ("set-id by chmod", call!(libc::SYS_fchmodat, -1, c"x".as_ptr(), 0o4755), libc::EPERM),
        ("set-id by open", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_CREAT, 0o2755), libc::EPERM),
        ("set-id without a name", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_TMPFILE, 0o4755), libc::EPERM),
        ("set-id by creat", call!(libc::SYS_creat, c"/nowhere/x".as_ptr(), 0o4755), libc::EPERM),
        ("set-id by mknod", call!(libc::SYS_mknodat, -1, c"x".as_ptr(), libc::S_IFREG | 0o4755, 0), libc::EPERM),
        ("set-id behind a pointer", call!(libc::SYS_openat2, -1, 0, 0, 24), libc::ENOSYS),
        ("a new file with high bits", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_CREAT, 0x1_0000_0800_u64), libc::EPERM),
        ("a device", call!(libc::SYS_mknodat, -1, c"x".as_ptr(), libc::S_IFBLK, 0), libc::EPERM),
        ("SCTP", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 132), libc::EPERM),
    ];
    for profile in PROFILES {
        for (name, attempt, errno) in attempts {
            assert_eq!(under(profile, attempt), errno, "{name} under {profile:?}");
        }
    }
}

#[test]
fn ordinary_calls_reach_the_kernel() {
    let attempts: [Attempt; 9] = [
        ("getpid", call!(libc::SYS_getpid), 0),
        ("ioctl", call!(libc::SYS_ioctl, -1, 0x5401, 0), libc::EBADF),
        ("own limits", call!(libc::SYS_prlimit64, 0, 7, 0, 0), 0),
        ("reading the core limit", call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 0, 0), 0),
        ("a new file", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_CREAT, 0o1777), libc::EBADF),
        // The mode means nothing then, and may be anything.
        ("a file that exists", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_DIRECTORY, 0o7777), libc::EBADF),
        ("UDP socket", call!(libc::SYS_socket, libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP), 0),
        ("TCP socket", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0), 0),
        ("routes", call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0), 0),
    ];
    for (name, attempt, errno) in attempts {
        assert_eq!(under(Profile::Default, attempt), errno, "{name}");
    }
    assert_eq!(under(Profile::Strict, call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)), libc::EPERM);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_entries_to_the_kernel_are_closed() {
    // SAFETY: interrupt 0x80 with number 20 is the 32-bit getpid, which touches no memory; rbx is not used by it.
    let by_interrupt: fn() -> libc::c_long = || unsafe {
        let result: i32;
        std::arch::asm!("int 0x80", inlateout("eax") 20 => result, options(nostack));
        libc::c_long::from(result)
    };
    let x32: fn() -> libc::c_long = call!(0x4000_0000 + libc::SYS_getpid);
    for profile in PROFILES {
        assert_eq!(under(profile, by_interrupt), -libc::SIGSYS);
        assert_eq!(under(profile, x32), libc::EPERM);
    }
}
