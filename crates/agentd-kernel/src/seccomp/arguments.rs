//! System calls that are allowed with some arguments only.

use super::assemble::{Condition, Rule};
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
pub(super) fn rules(profile: Profile) -> Vec<(&'static str, i64, Vec<Rule>)> {
    vec![
        ("clone", libc::SYS_clone, vec![vec![masked(0, NAMESPACES, 0)]]),
        ("ioctl", libc::SYS_ioctl, vec![TERMINAL.map(|request| is_not(1, request)).to_vec()]),
        ("socket", libc::SYS_socket, sockets(profile)),
        ("socketpair", libc::SYS_socketpair, vec![vec![constant(0, libc::AF_UNIX)]]),
        // Own limits only: the supervisor has the same user id.
        ("prlimit64", libc::SYS_prlimit64, vec![vec![is(0, 0)]]),
        ("prctl", libc::SYS_prctl, vec![vec![is_not(0, PR_SET_MM)]]),
        ("personality", libc::SYS_personality, PERSONALITIES.map(|p| vec![is(0, p)]).to_vec()),
        ("mknodat", libc::SYS_mknodat, plain_nodes(2)),
        ("fchmod", libc::SYS_fchmod, no_set_ids(1)),
        ("fchmodat", libc::SYS_fchmodat, no_set_ids(2)),
        #[cfg(target_arch = "x86_64")]
        ("chmod", libc::SYS_chmod, no_set_ids(1)),
        #[cfg(target_arch = "x86_64")]
        ("mknod", libc::SYS_mknod, plain_nodes(1)),
    ]
}

/// Families that stay inside the network namespace; of netlink only routes, which resolvers ask for.
fn sockets(profile: Profile) -> Vec<Rule> {
    if profile == Profile::Strict {
        return Vec::new();
    }
    let mut rules = vec![vec![constant(0, libc::AF_UNIX)], vec![constant(0, libc::AF_NETLINK), constant(2, libc::NETLINK_ROUTE)]];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            rules.push(vec![constant(0, family), masked(1, SOCKET_TYPE, kind.unsigned_abs())]);
        }
    }
    rules
}

/// Regular files, FIFOs and sockets; no devices.
fn plain_nodes(argument: u8) -> Vec<Rule> {
    [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK].map(|kind| vec![masked(argument, libc::S_IFMT, kind)]).to_vec()
}

/// Modes without set-user-id and set-group-id.
fn no_set_ids(argument: u8) -> Vec<Rule> {
    vec![vec![masked(argument, libc::S_ISUID | libc::S_ISGID, 0)]]
}

fn masked(argument: u8, mask: u32, value: u32) -> Condition {
    Condition { argument, mask, value, equal: true }
}

fn is(argument: u8, value: u32) -> Condition {
    masked(argument, u32::MAX, value)
}

fn is_not(argument: u8, value: u32) -> Condition {
    Condition { argument, mask: u32::MAX, value, equal: false }
}

fn constant(argument: u8, value: libc::c_int) -> Condition {
    is(argument, value.unsigned_abs())
}
