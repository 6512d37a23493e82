//! System calls that the filter allows or refuses by their arguments.

use super::{
    SeccompPlan,
    assemble::{Answer, Condition, Decision, Rule},
};
use agentd_core::{NetworkMode, Profile};

/// Namespace flags of `clone(2)`. `clone` has no flag for `CLONE_NEWTIME`.
const NAMESPACES: u32 = 0x7e02_0000;
/// Mask of the type argument of `socket(2)` without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const SOCKET_TYPE: u32 = 0xf;
/// Option that changes the memory map that `/proc` reports for the process (`prctl(2)`).
const PR_SET_MM: u32 = 35;
/// Option that sets the core-scheduling cookie of the process or of other processes (`prctl(2)`).
const PR_SCHED_CORE: u32 = 62;
/// Kinds of targets of `ioprio_set(2)`.
pub(super) const IOPRIO_WHO_PROCESS: u32 = 1;
pub(super) const IOPRIO_WHO_PGRP: u32 = 2;
/// Ioctls that inject input into a terminal or change its line discipline or the console (CVE-2017-5226 and `ioctl_console(2)`),
/// and ioctls that move blocks between files. The latter leave size and time stamps unchanged, so a comparison of protected paths
/// would not notice the change (`fs/ext4/ext4.h`, `include/uapi/linux/f2fs.h` and `fs/xfs/libxfs/xfs_fs.h` of Linux).
const IOCTLS: [u32; 9] = [
    0x5412,      // TIOCSTI
    0x541c,      // TIOCLINUX
    0x541d,      // TIOCCONS
    0x5423,      // TIOCSETD
    0xc028_660f, // EXT4_IOC_MOVE_EXT
    0xc020_f509, // F2FS_IOC_MOVE_RANGE
    0xc0c0_586d, // XFS_IOC_SWAPEXT
    0x4028_5881, // XFS_IOC_EXCHANGE_RANGE
    0x4058_5883, // XFS_IOC_COMMIT_RANGE
];
/// Personalities that change no protection: Linux, the query, and 32-bit Linux (`personality(2)`).
const PERSONALITIES: [u32; 3] = [0, 0xffff_ffff, 8];

/// Returns name, number and decision of each argument-checked system call.
pub(super) fn rules(plan: SeccompPlan) -> Vec<(&'static str, i64, Decision)> {
    vec![
        ("clone", libc::SYS_clone, only([vec![masked(0, NAMESPACES, &[0])]])),
        ("ioctl", libc::SYS_ioctl, only([vec![none_of(1, &IOCTLS)]])),
        ("socket", libc::SYS_socket, sockets(plan)),
        ("socketpair", libc::SYS_socketpair, Decision::Check(vec![allow(vec![one_of(0, &numbers([libc::AF_UNIX]))])], NO_FAMILY)),
        ("prlimit64", libc::SYS_prlimit64, limits_by_prlimit()),
        ("setrlimit", libc::SYS_setrlimit, Decision::Check(vec![allow(vec![none_of(0, &[libc::RLIMIT_CORE])])], Answer::Succeed)),
        ("prctl", libc::SYS_prctl, only([vec![none_of(0, &[PR_SET_MM, PR_SCHED_CORE])]])),
        ("personality", libc::SYS_personality, only([vec![one_of(0, &PERSONALITIES)]])),
        ("sched_setparam", libc::SYS_sched_setparam, own_scheduling()),
        ("sched_setscheduler", libc::SYS_sched_setscheduler, own_scheduling()),
        ("sched_setattr", libc::SYS_sched_setattr, own_scheduling()),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, own_scheduling()),
        ("setpriority", libc::SYS_setpriority, own_priority([libc::PRIO_PROCESS, libc::PRIO_PGRP])),
        ("ioprio_set", libc::SYS_ioprio_set, own_priority([IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP])),
        ("mknodat", libc::SYS_mknodat, plain_nodes(2, plan)),
        ("fchmod", libc::SYS_fchmod, mode_change(1, plan)),
        ("fchmodat", libc::SYS_fchmodat, mode_change(2, plan)),
        ("openat", libc::SYS_openat, opening(2, plan)),
        #[cfg(target_arch = "x86_64")]
        ("chmod", libc::SYS_chmod, mode_change(1, plan)),
        #[cfg(target_arch = "x86_64")]
        ("mknod", libc::SYS_mknod, plain_nodes(1, plan)),
        #[cfg(target_arch = "x86_64")]
        ("open", libc::SYS_open, opening(1, plan)),
        #[cfg(target_arch = "x86_64")]
        ("creat", libc::SYS_creat, only([vec![plain_mode(1, plan)]])),
    ]
}

/// Allows a process to change its own limits only: the supervisor has the same user id.
///
/// The limit of core files (`RLIMIT_CORE`) is never changed. It is 1, which prevents core files and keeps the host from running
/// its crash handler (`core(5)`). A limit of 0 would prevent core files, but the handler would run.
///
/// Setting the limit returns success without effect. Programs that hold secrets request 0, and the limit of 1 protects them even
/// better. A program that requests a higher limit also receives success, because the filter does not see the value; reading the
/// limit still returns 1. A call that sets the limit and requests the old value is refused, because no code would write the old
/// value.
fn limits_by_prlimit() -> Decision {
    let (own, core) = (one_of(0, &[0]), [libc::RLIMIT_CORE]);
    let no_new = || vec![one_of(2, &[0]), null(2)];
    let no_old = || vec![one_of(3, &[0]), null(3)];
    let succeed = |conditions| Rule { conditions, answer: Answer::Succeed };
    let rules = vec![
        allow(vec![own.clone(), none_of(1, &core)]),
        allow([vec![own.clone()], no_new()].concat()),
        succeed([vec![own], no_old()].concat()),
    ];
    Decision::Check(rules, Answer::Fail(libc::EPERM))
}

/// Allows a thread to change its own scheduling. The listener, which knows the command of each thread, handles calls on other
/// threads.
fn own_scheduling() -> Decision {
    Decision::Check(vec![allow(vec![one_of(0, &[0])])], Answer::Notify)
}

/// Allows a thread to change its own priority and that of its process group, which has processes of one session only. The
/// listener handles calls on other threads and groups. `PRIO_USER` is refused, because several commands run as the same user.
fn own_priority(process_and_group: [u32; 2]) -> Decision {
    let known = || one_of(0, &process_and_group);
    let ask = Rule { conditions: vec![known()], answer: Answer::Notify };
    Decision::Check(vec![allow(vec![known(), one_of(1, &[0])]), ask], Answer::Fail(libc::EPERM))
}

/// The answers of a kernel that lacks a socket family, or a protocol of an existing family (`socket(2)`).
const NO_FAMILY: Answer = Answer::Fail(libc::EAFNOSUPPORT);
const NO_PROTOCOL: Answer = Answer::Fail(libc::EPROTONOSUPPORT);

/// Allows socket families that stay inside the network namespace. Of netlink, only routes are allowed, which resolvers query. Of
/// the internet families, only TCP and UDP are allowed: other protocols (SCTP, DCCP, UDP-Lite …) would load rarely used kernel
/// modules. Raw sockets fail as for a user without privileges.
///
/// Programs with an optional use of a family or protocol handle these errnos and no others. The audit library of `useradd` and
/// `su` fails on `EPERM`, but continues without the kernel's audit on `EPROTONOSUPPORT`.
///
/// [`Profile::Strict`] has no sockets, except for TCP and UDP sockets if hosts were granted. The C library then finds no netlink,
/// and assumes that IPv4 and IPv6 are configured.
fn sockets(plan: SeccompPlan) -> Decision {
    let is_strict = plan.profile == Profile::Strict;
    if is_strict && plan.network != NetworkMode::Egress {
        return Decision::Always(NO_FAMILY);
    }
    let refuse = |conditions, answer| Rule { conditions, answer };
    let netlink = || one_of(0, &numbers([libc::AF_NETLINK]));
    let internet = || one_of(0, &numbers([libc::AF_INET, libc::AF_INET6]));
    let kind = |kinds: &[u32]| masked(1, SOCKET_TYPE, kinds);
    let local = vec![
        allow(vec![one_of(0, &numbers([libc::AF_UNIX]))]),
        allow(vec![netlink(), one_of(2, &numbers([libc::NETLINK_ROUTE]))]),
        refuse(vec![netlink()], NO_PROTOCOL),
    ];
    let of_the_internet = vec![
        allow(vec![
            internet(),
            kind(&numbers([libc::SOCK_STREAM, libc::SOCK_DGRAM])),
            one_of(2, &numbers([0, libc::IPPROTO_TCP, libc::IPPROTO_UDP])),
        ]),
        refuse(vec![internet(), kind(&numbers([libc::SOCK_RAW]))], Answer::Fail(libc::EPERM)),
        refuse(vec![internet()], NO_PROTOCOL),
    ];
    let rules = if is_strict { of_the_internet } else { [local, of_the_internet].concat() };
    Decision::Check(rules, NO_FAMILY)
}

/// Allows regular files, FIFOs and sockets, but no devices.
fn plain_nodes(argument: u8, plan: SeccompPlan) -> Decision {
    let plain = masked(argument, libc::S_IFMT, &[0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]);
    only([vec![plain, plain_mode(argument, plan)]])
}

/// Requires a mode without set-user-id and set-group-id bits, unless the plan allows these bits.
fn plain_mode(argument: u8, plan: SeccompPlan) -> Condition {
    let refused = if plan.set_ids { 0 } else { libc::S_ISUID | libc::S_ISGID };
    masked(argument, refused, &[0])
}

/// Returns the decision on a change of mode. The filter does not see file types. If set-id bits would take effect, the listener
/// checks calls that set only the set-group-id bit, which is allowed on directories.
fn mode_change(argument: u8, plan: SeccompPlan) -> Decision {
    let set_gid = masked(argument, libc::S_ISUID | libc::S_ISGID, &[libc::S_ISGID]);
    let ask = Rule { conditions: vec![set_gid], answer: Answer::Notify };
    Decision::Check(vec![allow(vec![plain_mode(argument, plan)]), ask], Answer::Fail(libc::EPERM))
}

/// Allows opening existing files, and creating files with a mode that [`plain_mode`] allows. The mode is the argument after
/// `flags`.
fn opening(flags: u8, plan: SeccompPlan) -> Decision {
    let makes = numbers([libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY]);
    let makes = makes.iter().fold(0, |all, flag| all | flag);
    only([vec![masked(flags, makes, &[0])], vec![plain_mode(flags + 1, plan)]])
}

/// Allows a call if all conditions of one list hold; otherwise the call fails with `EPERM`.
fn only<const N: usize>(lists: [Vec<Condition>; N]) -> Decision {
    Decision::Check(lists.into_iter().map(allow).collect(), Answer::Fail(libc::EPERM))
}

fn allow(conditions: Vec<Condition>) -> Rule {
    Rule { conditions, answer: Answer::Allow }
}

fn masked(argument: u8, mask: u32, values: &[u32]) -> Condition {
    Condition { argument, upper: false, mask, values: values.to_vec(), among: true }
}

fn one_of(argument: u8, values: &[u32]) -> Condition {
    masked(argument, u32::MAX, values)
}

fn none_of(argument: u8, values: &[u32]) -> Condition {
    Condition { among: false, ..one_of(argument, values) }
}

/// Requires the upper half of a pointer to be 0. Together with [`one_of`] 0 for the lower half, the pointer is null.
fn null(argument: u8) -> Condition {
    Condition { upper: true, ..one_of(argument, &[0]) }
}

fn numbers<const N: usize>(constants: [libc::c_int; N]) -> [u32; N] {
    constants.map(libc::c_int::unsigned_abs)
}
