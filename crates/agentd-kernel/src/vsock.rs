//! Stream sockets between a virtual machine and its host (`vsock(7)`), addressed by context id (CID) and port.

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};

/// The CID of the host (`VMADDR_CID_HOST`).
pub const HOST: u32 = 2;

/// The wildcard CID for binding (`VMADDR_CID_ANY`).
const ANY: u32 = u32::MAX;

/// Maximum number of pending connections.
const BACKLOG: i32 = 4;

/// Creates a non-blocking socket that listens on `port` of this machine.
///
/// # Errors
/// The errno of the failed socket call.
pub fn listen(port: u32) -> Result<OwnedFd, ControlError> {
    let socket = stream()?;
    syscall::vsock::bind_vsock(socket.as_fd(), ANY, port).during(Control::Network, || format!("bind vsock port {port}"))?;
    rustix::net::listen(&socket, BACKLOG).during(Control::Network, || format!("listen on vsock port {port}"))?;
    rustix::io::ioctl_fionbio(&socket, true)
        .during(Control::Network, || "make the vsock socket non-blocking: ioctl FIONBIO".to_owned())?;
    Ok(socket)
}

/// Connects to `port` of the machine `cid`, and blocks until the connection is established.
///
/// # Errors
/// The errno of `socket(2)` or `connect(2)`.
pub fn connect(cid: u32, port: u32) -> Result<OwnedFd, ControlError> {
    let socket = stream()?;
    syscall::vsock::connect_vsock(socket.as_fd(), cid, port)
        .during(Control::Network, || format!("connect to vsock {cid}:{port}"))?;
    Ok(socket)
}

fn stream() -> Result<OwnedFd, ControlError> {
    rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .during(Control::Network, || "create a vsock socket".to_owned())
}
