use super::*;
use crate::privileges;

/// A name, a call, and the errno with which it must fail.
type Attempt = (&'static str, fn() -> libc::c_long, i32);

const PROFILES: [Profile; 3] = [Profile::Strict, Profile::Default, Profile::Permissive];

/// Runs `attempt` in a child under the filter. Returns its errno (0 for success), or the negated signal that killed the child.
fn under(profile: Profile, attempt: fn() -> libc::c_long) -> i32 {
    under_plan(SeccompPlan { profile, network: NetworkMode::Off, set_ids: false }, attempt)
}

fn under_plan(plan: SeccompPlan, attempt: fn() -> libc::c_long) -> i32 {
    let program = plan.compile();
    // SAFETY: the child only installs the filter and makes the attempt, then exits.
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
    let attempts: [Attempt; 37] = [
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
        ("EXT4_IOC_MOVE_EXT", call!(libc::SYS_ioctl, -1, 0xc028_660f_u64, 0), libc::EPERM),
        ("XFS_IOC_SWAPEXT", call!(libc::SYS_ioctl, -1, 0xc0c0_586d_u64, 0), libc::EPERM),
        ("TIOCSTI with high bits", call!(libc::SYS_ioctl, -1, 0x1_0000_5412_u64, 0), libc::EPERM),
        ("TIOCLINUX", call!(libc::SYS_ioctl, -1, 0x541c, 0), libc::EPERM),
        ("vsock", call!(libc::SYS_socket, 40, libc::SOCK_STREAM, 0), libc::EAFNOSUPPORT),
        ("packet socket", call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0), libc::EAFNOSUPPORT),
        ("limits of another process", call!(libc::SYS_prlimit64, 1, 7, 0, 0), libc::EPERM),
        ("the old core limit", call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 8, 8), libc::EPERM),
        ("the old core limit at a high address", call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, 8, 1_u64 << 32), libc::EPERM),
        ("the core limit of another process", call!(libc::SYS_prlimit64, 1, libc::RLIMIT_CORE, 8, 0), libc::EPERM),
        ("raw socket pair", call!(libc::SYS_socketpair, libc::AF_INET, libc::SOCK_STREAM, 0, 0), libc::EAFNOSUPPORT),
        ("new mount calls", call!(libc::SYS_fsopen, 0, 0), libc::ENOSYS),
        ("listmount", call!(458, 0, 0, 0, 0), libc::ENOSYS),
        ("set-id by chmod", call!(libc::SYS_fchmodat, -1, c"x".as_ptr(), 0o4755), libc::EPERM),
        ("both set-id bits", call!(libc::SYS_fchmod, -1, 0o6755), libc::EPERM),
        ("set-group-id without a listener", call!(libc::SYS_fchmod, -1, 0x1_0000_0000_u64 | 0o2755), libc::ENOSYS),
        ("set-id by open", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_CREAT, 0o2755), libc::EPERM),
        ("set-id without a name", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_TMPFILE, 0o4755), libc::EPERM),
        ("set-id by creat", call!(libc::SYS_creat, c"/nowhere/x".as_ptr(), 0o4755), libc::EPERM),
        ("set-id by mknod", call!(libc::SYS_mknodat, -1, c"x".as_ptr(), libc::S_IFREG | 0o4755, 0), libc::EPERM),
        ("set-id behind a pointer", call!(libc::SYS_openat2, -1, 0, 0, 24), libc::ENOSYS),
        ("a new file with high bits", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_CREAT, 0x1_0000_0800_u64), libc::EPERM),
        ("a device", call!(libc::SYS_mknodat, -1, c"x".as_ptr(), libc::S_IFBLK, 0), libc::EPERM),
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
        // Without O_CREAT and O_TMPFILE the kernel ignores the mode.
        ("a file that exists", call!(libc::SYS_openat, -1, c"x".as_ptr(), libc::O_DIRECTORY, 0o7777), libc::EBADF),
        ("UDP socket", call!(libc::SYS_socket, libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP), 0),
        ("TCP socket", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0), 0),
        ("routes", call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0), 0),
    ];
    for (name, attempt, errno) in attempts {
        assert_eq!(under(Profile::Default, attempt), errno, "{name}");
    }
    assert_eq!(under(Profile::Strict, call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)), libc::EAFNOSUPPORT);
}

#[test]
fn scheduling_of_other_processes_is_left_to_the_listener() {
    let attempts: [Attempt; 11] = [
        ("own processors", call!(libc::SYS_sched_setaffinity, 0x1_0000_0000_u64, 0, 0), libc::EINVAL),
        ("processors of another", call!(libc::SYS_sched_setaffinity, 1, 0, 0), libc::ENOSYS),
        ("parameters of another", call!(libc::SYS_sched_setparam, 1, 0), libc::ENOSYS),
        ("policy of another", call!(libc::SYS_sched_setscheduler, 1, 0, 0), libc::ENOSYS),
        ("attributes of another", call!(libc::SYS_sched_setattr, 1, 0, 0), libc::ENOSYS),
        ("own priority", call!(libc::SYS_setpriority, 0, 0x1_0000_0000_u64, 19), 0),
        ("priority of another", call!(libc::SYS_setpriority, 0, 1, 0), libc::ENOSYS),
        ("priority of a group", call!(libc::SYS_setpriority, 1, 1, 0), libc::ENOSYS),
        ("priority of a user", call!(libc::SYS_setpriority, 2, 0, 0), libc::EPERM),
        ("I/O priority of a user", call!(libc::SYS_ioprio_set, 3, 0, 0), libc::EPERM),
        ("core scheduling", call!(libc::SYS_prctl, 62, 1, 1, 0, 0), libc::EPERM),
    ];
    for (name, attempt, errno) in attempts {
        assert_eq!(under(Profile::Default, attempt), errno, "{name}");
    }
}

#[test]
fn refused_socket_fails_as_on_kernel_without_it() {
    let attempts: [Attempt; 8] = [
        ("audit", call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 9), libc::EPROTONOSUPPORT),
        ("netfilter", call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 12), libc::EPROTONOSUPPORT),
        ("SCTP", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 132), libc::EPROTONOSUPPORT),
        ("SCTP by its type", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_SEQPACKET, 0), libc::EPROTONOSUPPORT),
        ("ping", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 1), libc::EPROTONOSUPPORT),
        ("raw", call!(libc::SYS_socket, libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 58), libc::EPERM),
        ("Bluetooth", call!(libc::SYS_socket, 31, libc::SOCK_RAW, 0), libc::EAFNOSUPPORT),
        ("AF_ALG", call!(libc::SYS_socket, 38, libc::SOCK_SEQPACKET, 0), libc::EAFNOSUPPORT),
    ];
    for (name, attempt, errno) in attempts {
        assert_eq!(under(Profile::Default, attempt), errno, "{name}");
    }
}

#[test]
fn unlisted_call_fails_with_enosys() {
    let attempts: [Attempt; 9] = [
        ("setxattrat", call!(463, 0, 0, 0, 0, 0, 0), libc::ENOSYS),
        ("file_getattr", call!(468, 0, 0, 0, 0, 0), libc::ENOSYS),
        ("statmount", call!(457, 0, 0, 0, 0), libc::ENOSYS),
        ("open_tree_attr", call!(467, 0, 0, 0, 0, 0), libc::ENOSYS),
        ("mount_setattr", call!(libc::SYS_mount_setattr, -1, 0, 0, 0, 0), libc::ENOSYS),
        ("pidfd_getfd", call!(libc::SYS_pidfd_getfd, -1, 0, 0), libc::ENOSYS),
        ("a number between the tables", call!(423, 0), libc::ENOSYS),
        ("an x32 number without its bit", call!(520, 0, 0, 0), libc::ENOSYS),
        ("a number of no kernel", call!(999, 0), libc::ENOSYS),
    ];
    for profile in PROFILES {
        for (name, attempt, errno) in attempts {
            assert_eq!(under(profile, attempt), errno, "{name} under {profile:?}");
        }
    }
}

#[test]
fn setting_core_limit_reports_success_without_effect() {
    let lower: fn() -> libc::c_long = || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let mut after = none;
        // SAFETY: `none` lives across the call and is of the right type.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        // SAFETY: `after` lives across the call and is of the right type.
        unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut after) };
        // The test process may have any limit except 0.
        if result == 0 && after.rlim_max != 0 { 0 } else { -1 }
    };
    assert_eq!(under(Profile::Default, lower), 0);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn foreign_syscall_entries_are_refused() {
    // SAFETY: interrupt 0x80 with number 20 is the 32-bit getpid, which touches no memory and does not use rbx.
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

#[test]
fn granted_hosts_allow_tcp_and_udp_in_every_profile_and_no_other_socket() {
    let attempts: [Attempt; 8] = [
        ("TCP", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0), 0),
        ("UDP", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP), 0),
        ("TCP over IPv6", call!(libc::SYS_socket, libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP), 0),
        ("ping", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), libc::EPROTONOSUPPORT),
        ("raw", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP), libc::EPERM),
        ("packet", call!(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0), libc::EAFNOSUPPORT),
        ("vsock", call!(libc::SYS_socket, 40, libc::SOCK_STREAM, 0), libc::EAFNOSUPPORT),
        ("MPTCP", call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 262), libc::EPROTONOSUPPORT),
    ];
    for profile in PROFILES {
        let plan = SeccompPlan { profile, network: NetworkMode::Egress, set_ids: false };
        for (name, attempt, errno) in attempts {
            assert_eq!(under_plan(plan, attempt), errno, "{name} with {profile:?}");
        }
        let local: [fn() -> libc::c_long; 2] = [
            call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0),
            call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ];
        let expected = if profile == Profile::Strict { libc::EAFNOSUPPORT } else { 0 };
        assert_eq!(local.map(|attempt| under_plan(plan, attempt)), [expected; 2], "{profile:?}");
        // Without granted hosts, the profile `strict` has no sockets.
        let refused = if profile == Profile::Strict { libc::EAFNOSUPPORT } else { 0 };
        assert_eq!(under(profile, call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)), refused, "{profile:?}");
    }
}

/// The kernel refuses a filter of more than 4096 instructions with `EINVAL` (`BPF_MAXINSNS`).
#[test]
fn refused_filter_keeps_errno_source_and_remedy() {
    let program = SeccompPlan { profile: Profile::Strict, network: NetworkMode::Off, set_ids: false }.compile();
    let last = program.0.last().unwrap().clone();
    let long = Program(vec![last; 5000]);
    // `apply` sets no_new_privs, which a thread has for itself.
    let error = std::thread::spawn(move || apply(&long)).join().unwrap().unwrap_err();
    assert_eq!(error.errno, Some(libc::EINVAL), "{error}");
    assert!(std::error::Error::source(&error).is_some_and(|source| source.is::<seccompiler::Error>()), "{error:?}");
    let cause = std::io::Error::from_raw_os_error(libc::EINVAL);
    assert_eq!(error.to_string(), format!("seccomp: install filter: {cause} — {NEEDS}"));
}
