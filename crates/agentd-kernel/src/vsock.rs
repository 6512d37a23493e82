//! Sockets between a virtual machine and its host (`vsock(7)`): streams that are named by a machine's number and a port.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};

/// The machine that one runs on (`VMADDR_CID_HOST`).
pub const HOST: u32 = 2;

/// Whichever number this machine has (`VMADDR_CID_ANY`).
const ANY: u32 = u32::MAX;

/// How many connections may wait.
const BACKLOG: i32 = 4;

/// A socket that listens at `port` of this machine. Non-blocking.
pub fn listen(port: u32) -> Result<OwnedFd, LayerError> {
    let socket = stream()?;
    syscall::bind_vsock(socket.as_fd(), ANY, port).at(Layer::Network, || format!("bind vsock port {port}"))?;
    rustix::net::listen(&socket, BACKLOG).at(Layer::Network, || format!("listen at vsock port {port}"))?;
    rustix::io::ioctl_fionbio(&socket, true).at(Layer::Network, || "ioctl FIONBIO".to_owned())?;
    Ok(socket)
}

/// A connection to `port` of the machine `cid`. It waits until that has answered.
pub fn connect(cid: u32, port: u32) -> Result<OwnedFd, LayerError> {
    let socket = stream()?;
    syscall::connect_vsock(socket.as_fd(), cid, port).at(Layer::Network, || format!("connect to vsock {cid}:{port}"))?;
    Ok(socket)
}

fn stream() -> Result<OwnedFd, LayerError> {
    rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .at(Layer::Network, || "socket of vsock".to_owned())
}
