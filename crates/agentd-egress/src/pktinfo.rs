//! Datagrams with the address to which they were sent (`IP_PKTINFO` of `man 7 ip`, `IPV6_PKTINFO` of `man 7 ipv6`).
//!
//! In a sandbox every address is local, and one socket receives the datagrams to all addresses. A client accepts an answer only
//! from the address to which it sent its query.

use rustix::net::{
    AddressFamily,
    sockopt::{set_ipv6_freebind, socket_domain},
};
use std::{
    io,
    mem::{size_of, zeroed},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// A datagram that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Bytes in the buffer. A longer datagram is cut off, and `whole` is false.
    pub(crate) length: usize,
    pub(crate) whole: bool,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
}

/// The space for one control message, of IPv4 or IPv6.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Makes the kernel report the destination of each datagram, and permits any source address for replies.
pub(crate) fn enable(socket: BorrowedFd<'_>) -> io::Result<()> {
    let (level, option) = match socket_domain(socket)? {
        AddressFamily::INET => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        _ => {
            // Without this option, IPv6 accepts only a source address of an interface (`ip6_datagram_send_ctl`), not one that is
            // local by a route.
            set_ipv6_freebind(socket, true)?;
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        }
    };
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, and both pointer and length describe one.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length_of(&on)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one datagram without waiting.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: zero bytes are a valid value of this structure of integers.
    let mut address: libc::sockaddr_storage = unsafe { zeroed() };
    let mut head = message(&mut part, &mut control);
    head.msg_name = (&raw mut address).cast();
    head.msg_namelen = length_of(&address);
    // SAFETY: every pointer of `head` leads to a live value of the stated length.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut head, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a datagram without its addresses");
    Ok(Datagram {
        length,
        whole: head.msg_flags & libc::MSG_TRUNC == 0,
        from: source(&address).ok_or_else(missing)?,
        to: destination(&head).ok_or_else(missing)?,
    })
}

/// Sends one datagram without waiting, from the given address.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut head = message(&mut part, &mut control);
    // Both addresses live until the call.
    let (mut v4, mut v6);
    match to {
        SocketAddr::V4(to) => {
            v4 = sockaddr_v4(to);
            head.msg_name = (&raw mut v4).cast();
            head.msg_namelen = length_of(&v4);
        }
        SocketAddr::V6(to) => {
            v6 = sockaddr_v6(to);
            head.msg_name = (&raw mut v6).cast();
            head.msg_namelen = length_of(&v6);
        }
    }
    match from {
        IpAddr::V4(from) => {
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: in_addr(from), ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED) };
            put(&mut head, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(from) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            put(&mut head, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    // SAFETY: every pointer of `head` leads to a live value of the stated length; the kernel only reads the bytes.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const head, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Describes a message with one part and space for control messages.
fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: zero bytes are a valid value of this structure of integers and pointers.
    let mut head: libc::msghdr = unsafe { zeroed() };
    head.msg_iov = part;
    head.msg_iovlen = 1;
    head.msg_control = control.0.as_mut_ptr().cast();
    head.msg_controllen = control.0.len() as _;
    head
}

/// Writes the only control message of `head`, which has the space of a [`Control`].
fn put<T>(head: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) {
    const { assert!(size_of::<T>() <= 32) };
    let length = libc::c_uint::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the room of 64 aligned bytes holds the head of a control message (16 bytes) and a value of up to 32 bytes.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(head);
        (*control).cmsg_level = level;
        (*control).cmsg_type = kind;
        (*control).cmsg_len = libc::CMSG_LEN(length) as _;
        libc::CMSG_DATA(control).cast::<T>().write_unaligned(value);
        head.msg_controllen = libc::CMSG_SPACE(length) as _;
    }
}

/// Returns the destination of a received message.
fn destination(head: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel wrote `msg_controllen` bytes of control messages, which `head` leads to.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(head);
        while !control.is_null() {
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(control).cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(control).cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => control = libc::CMSG_NXTHDR(head, control),
            }
        }
        None
    }
}

fn source(address: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family states the kind, and the storage is large and aligned enough for it.
            let v4 = unsafe { (&raw const *address).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { (&raw const *address).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn sockaddr_v4(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: AddressFamily::INET.as_raw(),
        sin_port: address.port().to_be(),
        sin_addr: in_addr(*address.ip()),
        sin_zero: [0; 8],
    }
}

fn sockaddr_v6(address: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: AddressFamily::INET6.as_raw(),
        sin6_port: address.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

/// Returns the size of a small structure.
fn length_of<T>(_: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn answer_comes_from_the_address_that_was_asked() {
        for (bind, ask) in [("0.0.0.0:0", "127.0.0.53"), ("0.0.0.0:0", "127.9.8.7"), ("[::1]:0", "::1")] {
            let server = UdpSocket::bind(bind).unwrap();
            enable(server.as_fd()).unwrap();
            let asked: IpAddr = ask.parse().unwrap();
            let to = SocketAddr::new(asked, server.local_addr().unwrap().port());
            let client = UdpSocket::bind((if asked.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
            // A connected socket receives only datagrams from that address.
            client.connect(to).unwrap();
            client.send(b"question").unwrap();
            rustix::io::retry_on_intr(|| {
                rustix::event::poll(&mut [rustix::event::PollFd::new(&server, rustix::event::PollFlags::IN)], None)
            })
            .unwrap();
            let mut buffer = [0; 4];
            let datagram = receive(&server, &mut buffer).unwrap();
            let from = client.local_addr().unwrap();
            assert_eq!(datagram, Datagram { length: 4, whole: false, from, to: asked });
            assert_eq!(receive(&server, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            send(&server, b"answer", datagram.from, datagram.to).unwrap();
            let mut buffer = [0; 16];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"answer");
        }
    }
}
