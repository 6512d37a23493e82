//! Sockets: the process at the other end, and the loopback interface.

use super::check;
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with},
};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// Returns a raw socket that receives the packets that the filter accepts (`raw(7)`). The socket receives no packet before the
/// filter is attached, if no other process is in the network namespace yet.
pub fn filtered_raw_socket(
    family: AddressFamily,
    protocol: Protocol,
    filter: &mut [libc::sock_filter],
) -> Result<OwnedFd, Errno> {
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(protocol))?;
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?, filter: filter.as_mut_ptr() };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `program` and the instructions live across the call, which copies them; `length` is the size of `program`.
    let attached = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
    check(libc::c_long::from(attached))?;
    Ok(socket)
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
