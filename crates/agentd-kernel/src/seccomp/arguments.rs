//! System calls that are allowed with some arguments only.

use agentd_core::Profile;
use seccompiler::{
    BackendError,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp::{Eq, MaskedEq, Ne},
    SeccompCondition, SeccompRule,
};

/// Namespace flags of `clone(2)`. `CLONE_NEWTIME` cannot be asked for by `clone`.
const NAMESPACES: u64 = 0x7e02_0000;
/// The type argument of `socket(2)` without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const SOCKET_TYPE: u64 = 0xf;
/// `PR_SET_MM` changes what /proc says of the process, `PR_SET_SECCOMP` is the old way to `seccomp(2)` and harmless.
const PR_SET_MM: u64 = 35;
/// Ioctls that type into a terminal or change what serves it: CVE-2017-5226, and the console's own (`ioctl_console(2)`).
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const TIOCCONS: u64 = 0x541d;
const TIOCSETD: u64 = 0x5423;
/// Personalities that change no protection: Linux, the query, and 32-bit Linux (`personality(2)`).
const PERSONALITIES: [u64; 3] = [0, 0xffff_ffff, 8];

type Checks = Vec<(i64, Vec<SeccompRule>)>;

/// Names and numbers of the calls in [`rules`].
pub(super) fn checked_names() -> &'static [(&'static str, i64)] {
    &[
        ("clone", libc::SYS_clone),
        ("ioctl", libc::SYS_ioctl),
        ("socket", libc::SYS_socket),
        ("socketpair", libc::SYS_socketpair),
        ("prlimit64", libc::SYS_prlimit64),
        ("prctl", libc::SYS_prctl),
        ("personality", libc::SYS_personality),
        ("mknodat", libc::SYS_mknodat),
        ("fchmod", libc::SYS_fchmod),
        ("fchmodat", libc::SYS_fchmodat),
        #[cfg(target_arch = "x86_64")]
        ("chmod", libc::SYS_chmod),
        #[cfg(target_arch = "x86_64")]
        ("mknod", libc::SYS_mknod),
    ]
}

/// The rules of a profile. Any one of a call's rules lets it through.
pub(super) fn rules(profile: Profile) -> Result<Checks, BackendError> {
    let mut checks = vec![
        (libc::SYS_clone, vec![all(&[SeccompCondition::new(0, Qword, MaskedEq(NAMESPACES), 0)?])?]),
        // The kernel looks at the low 32 bits of the request only.
        (
            libc::SYS_ioctl,
            vec![all(&[TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD]
                .into_iter()
                .map(|request| SeccompCondition::new(1, Dword, Ne, request))
                .collect::<Result<Vec<_>, _>>()?)?],
        ),
        (libc::SYS_socketpair, vec![all(&[argument(0, libc::AF_UNIX)?])?]),
        // Own limits only: the supervisor has the same user id.
        (libc::SYS_prlimit64, vec![all(&[SeccompCondition::new(0, Dword, Eq, 0)?])?]),
        (libc::SYS_prctl, vec![all(&[SeccompCondition::new(0, Dword, Ne, PR_SET_MM)?])?]),
        (
            libc::SYS_personality,
            PERSONALITIES.into_iter().map(|p| all(&[SeccompCondition::new(0, Dword, Eq, p)?])).collect::<Result<_, _>>()?,
        ),
        (libc::SYS_socket, sockets(profile)?),
        (libc::SYS_mknodat, plain_nodes(2)?),
        (libc::SYS_fchmod, no_set_ids(1)?),
        (libc::SYS_fchmodat, no_set_ids(2)?),
    ];
    #[cfg(target_arch = "x86_64")]
    checks.extend([(libc::SYS_chmod, no_set_ids(1)?), (libc::SYS_mknod, plain_nodes(1)?)]);
    Ok(checks)
}

/// Families that stay inside the network namespace; of netlink only routes, which resolvers ask for.
fn sockets(profile: Profile) -> Result<Vec<SeccompRule>, BackendError> {
    if profile == Profile::Strict {
        // No rule would let every call through; this one matches no family.
        return Ok(vec![all(&[SeccompCondition::new(0, Dword, Eq, 0xffff)?])?]);
    }
    let mut rules =
        vec![all(&[argument(0, libc::AF_UNIX)?])?, all(&[argument(0, libc::AF_NETLINK)?, argument(2, libc::NETLINK_ROUTE)?])?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let kind = SeccompCondition::new(1, Dword, MaskedEq(SOCKET_TYPE), u64::from(kind.unsigned_abs()))?;
            rules.push(all(&[argument(0, family)?, kind])?);
        }
    }
    Ok(rules)
}

/// Regular files, FIFOs and sockets; no devices.
fn plain_nodes(index: u8) -> Result<Vec<SeccompRule>, BackendError> {
    [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]
        .into_iter()
        .map(|kind| all(&[SeccompCondition::new(index, Dword, MaskedEq(u64::from(libc::S_IFMT)), u64::from(kind))?]))
        .collect()
}

/// Modes without set-user-id and set-group-id.
fn no_set_ids(index: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let bits = u64::from(libc::S_ISUID | libc::S_ISGID);
    Ok(vec![all(&[SeccompCondition::new(index, Dword, MaskedEq(bits), 0)?])?])
}

fn argument(index: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, Dword, Eq, u64::from(value.unsigned_abs()))
}

fn all(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}
