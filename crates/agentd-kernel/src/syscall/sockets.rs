//! Sockets: the process at the other end, and the loopback interface.

use super::check;
use rustix::io::Errno;
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

/// Returns a packet socket that receives what the filter accepts at the interface, from the network header on (`packet(7)`).
pub fn packet_socket(filter: &mut [libc::sock_filter], interface: u32) -> Result<OwnedFd, Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    // Without a protocol, the socket receives nothing before it is bound.
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?, filter: filter.as_mut_ptr() };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `program` and the instructions live across the call, which copies them; `length` is the size of `program`.
    let attached = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
    check(libc::c_long::from(attached))?;
    // SAFETY: all-zero is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| Errno::INVAL)?;
    // ETH_P_ALL in network byte order.
    address.sll_protocol = 3_u16.to_be();
    address.sll_ifindex = libc::c_int::try_from(interface).map_err(|_| Errno::INVAL)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `address` lives across the call, and `length` is its size.
    check(libc::c_long::from(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
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
