//! System calls that are allowed with some arguments only.

use super::{
    SeccompPlan,
    assemble::{Condition, Rule},
};
use agentd_core::Profile;

/// Namespace flags of `clone(2)`. `CLONE_NEWTIME` cannot be asked for by `clone`.
const NAMESPACES: u32 = 0x7e02_0000;
/// The type argument of `socket(2)` without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const SOCKET_TYPE: u32 = 0xf;
/// Changes what /proc says of the process (`prctl(2)`).
const PR_SET_MM: u32 = 35;
/// Ioctls that type into a terminal or change what serves it: CVE-2017-5226, and the console's own (`ioctl_console(2)`).
const TERMINAL: [u32; 4] =
    [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */, 0x541d /* TIOCCONS */, 0x5423 /* TIOCSETD */];
/// Personalities that change no protection: Linux, the query, and 32-bit Linux (`personality(2)`).
const PERSONALITIES: [u32; 3] = [0, 0xffff_ffff, 8];

/// The calls and their rules in a profile. Any one of a call's rules lets it through; without rules it is refused.
pub(super) fn rules(plan: SeccompPlan) -> Vec<(&'static str, i64, Vec<Rule>)> {
    let core = [libc::RLIMIT_CORE];
    vec![
        ("clone", libc::SYS_clone, vec![vec![masked(0, NAMESPACES, &[0])]]),
        ("ioctl", libc::SYS_ioctl, vec![vec![none_of(1, &TERMINAL)]]),
        ("socket", libc::SYS_socket, sockets(plan.profile)),
        ("socketpair", libc::SYS_socketpair, vec![vec![one_of(0, &numbers([libc::AF_UNIX]))]]),
        // Own limits only: the supervisor has the same user id. And of those not the one that keeps the host from running its
        // crash handler (`core(5)`), which a process could otherwise lower to 0; reading it is harmless.
        (
            "prlimit64",
            libc::SYS_prlimit64,
            vec![vec![one_of(0, &[0]), none_of(1, &core)], vec![one_of(0, &[0]), one_of(2, &[0]), null(2)]],
        ),
        ("setrlimit", libc::SYS_setrlimit, vec![vec![none_of(0, &core)]]),
        ("prctl", libc::SYS_prctl, vec![vec![none_of(0, &[PR_SET_MM])]]),
        ("personality", libc::SYS_personality, vec![vec![one_of(0, &PERSONALITIES)]]),
        ("mknodat", libc::SYS_mknodat, plain_nodes(2, plan)),
        ("fchmod", libc::SYS_fchmod, vec![vec![plain_mode(1, plan)]]),
        ("fchmodat", libc::SYS_fchmodat, vec![vec![plain_mode(2, plan)]]),
        ("openat", libc::SYS_openat, opening(2, plan)),
        #[cfg(target_arch = "x86_64")]
        ("chmod", libc::SYS_chmod, vec![vec![plain_mode(1, plan)]]),
        #[cfg(target_arch = "x86_64")]
        ("mknod", libc::SYS_mknod, plain_nodes(1, plan)),
        #[cfg(target_arch = "x86_64")]
        ("open", libc::SYS_open, opening(1, plan)),
        #[cfg(target_arch = "x86_64")]
        ("creat", libc::SYS_creat, vec![vec![plain_mode(1, plan)]]),
    ]
}

/// Families that stay inside the network namespace; of netlink only routes, which resolvers ask for; of the internet's only TCP and
/// UDP: other protocols (SCTP, DCCP, UDP-Lite …) would load kernel modules that hardly anyone uses.
fn sockets(profile: Profile) -> Vec<Rule> {
    if profile == Profile::Strict {
        return Vec::new();
    }
    vec![
        vec![one_of(0, &numbers([libc::AF_UNIX]))],
        vec![one_of(0, &numbers([libc::AF_NETLINK])), one_of(2, &numbers([libc::NETLINK_ROUTE]))],
        vec![
            one_of(0, &numbers([libc::AF_INET, libc::AF_INET6])),
            masked(1, SOCKET_TYPE, &numbers([libc::SOCK_STREAM, libc::SOCK_DGRAM])),
            one_of(2, &numbers([0, libc::IPPROTO_TCP, libc::IPPROTO_UDP])),
        ],
    ]
}

/// Regular files, FIFOs and sockets; no devices.
fn plain_nodes(argument: u8, plan: SeccompPlan) -> Vec<Rule> {
    let plain = masked(argument, libc::S_IFMT, &[0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]);
    vec![vec![plain, plain_mode(argument, plan)]]
}

/// A mode without set-user-id and set-group-id, unless the plan lets them through.
fn plain_mode(argument: u8, plan: SeccompPlan) -> Condition {
    let refused = if plan.set_ids { 0 } else { libc::S_ISUID | libc::S_ISGID };
    masked(argument, refused, &[0])
}

/// Opening what exists, or making a file with such a mode, which is the argument after the flags.
fn opening(flags: u8, plan: SeccompPlan) -> Vec<Rule> {
    let makes = numbers([libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY]);
    let makes = makes.iter().fold(0, |all, flag| all | flag);
    vec![vec![masked(flags, makes, &[0])], vec![plain_mode(flags + 1, plan)]]
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

/// The upper half of a null pointer; [`one_of`] 0 is the lower.
fn null(argument: u8) -> Condition {
    Condition { upper: true, ..one_of(argument, &[0]) }
}

fn numbers<const N: usize>(constants: [libc::c_int; N]) -> [u32; N] {
    constants.map(libc::c_int::unsigned_abs)
}
