//! Addresses of sockets between a virtual machine and its host (`vsock(7)`).

use super::check;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `AF_VSOCK` in the type of `svm_family`, and the size of `sockaddr_vm` in bytes.
const AF_VSOCK: libc::sa_family_t = 40;
const VSOCK_ADDRESS: libc::socklen_t = 16;
const _: () = assert!(AF_VSOCK as libc::c_int == libc::AF_VSOCK && VSOCK_ADDRESS as usize == size_of::<libc::sockaddr_vm>());

/// Binds a socket to an address of `vsock(7)` (`bind(2)`).
pub fn bind_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    let (address, length) = vsock_address(cid, port);
    // SAFETY: `address` is a complete address of its family, its length is passed, and it lives across the call.
    check(libc::c_long::from(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(())
}

/// Connects a socket to an address of `vsock(7)` (`connect(2)`).
pub fn connect_vsock(socket: BorrowedFd<'_>, cid: u32, port: u32) -> Result<(), Errno> {
    let (address, length) = vsock_address(cid, port);
    // SAFETY: as in `bind_vsock`.
    check(libc::c_long::from(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) }))?;
    Ok(())
}

fn vsock_address(cid: u32, port: u32) -> (libc::sockaddr_vm, libc::socklen_t) {
    // SAFETY: all-zero is a valid `sockaddr_vm`.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    (address, VSOCK_ADDRESS)
}
