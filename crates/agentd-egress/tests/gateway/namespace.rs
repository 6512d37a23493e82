//! The namespaces of the tests: an outer one for the servers and the gateway, and one for each sandbox.
//!
//! In every namespace, all addresses are local ("AnyIP"), so a test can use any address, and no packet leaves.

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, listen, recv, send, socket_with, sockopt},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{fs, net::SocketAddr};

/// Numbers of `linux/rtnetlink.h`, `linux/if_addr.h` and `linux/if.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const REQUEST_CREATE_ACK: u16 = 0x0001 | 0x0004 | 0x0400;
const LOOPBACK: u32 = 1;

/// Moves this process, which has one thread, into new user and network namespaces in which it is root.
pub fn enter_outer() {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: the process has one thread, and no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }.expect("create user and network namespaces");
    fs::write("/proc/self/setgroups", "deny").expect("deny setgroups");
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).expect("map the user");
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).expect("map the group");
    up();
}

/// Moves this thread into a new network namespace.
pub fn enter_sandbox() {
    // SAFETY: a network namespace belongs to one thread, and no descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("create a network namespace");
    up();
}

/// Sets the loopback interface up, with an address of each family, and makes every address local.
fn up() {
    request(RTM_NEWLINK, &[&[0, 0, 0, 0][..], &LOOPBACK.to_ne_bytes(), &1_u32.to_ne_bytes(), &1_u32.to_ne_bytes()].concat());
    let v4: &[u8] = &[198, 18, 0, 2];
    let v6: &[u8] = &[0xfd, 0x61, 0x67, 0x65, 0x6e, 0x74, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    for (family, address) in [(2, v4), (10, v6)] {
        let bits = u8::try_from(address.len() * 8).unwrap();
        let head = [&[family, bits, 0x02, 0][..], &LOOPBACK.to_ne_bytes()].concat();
        request(RTM_NEWADDR, &[head, attribute(2, address), attribute(1, address)].concat());
        // Table main, protocol boot, scope host, type local.
        let head = [family, 0, 0, 0, 254, 3, 254, 2, 0, 0, 0, 0];
        request(RTM_NEWROUTE, &[&head[..], &attribute(4, &LOOPBACK.to_ne_bytes())].concat());
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

fn request(kind: u16, body: &[u8]) {
    // Without a protocol: NETLINK_ROUTE.
    let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let length = u32::try_from(16 + body.len()).unwrap();
    let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &REQUEST_CREATE_ACK.to_ne_bytes(), &[0; 8]].concat();
    send(&netlink, &[&head, body].concat(), SendFlags::empty()).unwrap();
    let mut answer = [0; 256];
    recv(&netlink, &mut answer, RecvFlags::empty()).unwrap();
    let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert_eq!(error, 0, "request {kind} of rtnetlink: {}", std::io::Error::from_raw_os_error(-error));
}

/// Creates a socket at a port of every address of the family, as the gateway takes it: without `SO_REUSEADDR`.
pub fn socket(v6: bool, kind: SocketType, port: u16) -> OwnedFd {
    let (family, any) = if v6 { (AddressFamily::INET6, "[::]") } else { (AddressFamily::INET, "0.0.0.0") };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    if v6 {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    bind(&socket, &format!("{any}:{port}").parse::<SocketAddr>().unwrap()).unwrap();
    if kind == SocketType::STREAM {
        listen(&socket, 128).unwrap();
    }
    socket
}
