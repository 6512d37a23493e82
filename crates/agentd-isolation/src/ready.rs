//! Waiting for descriptors with the caller's runtime.

use agentd_supervisor::channel::Channel;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Registers an owned descriptor.
pub(crate) fn owned(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor and gives the same one for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Registers a channel.
pub(crate) fn channel(channel: Channel) -> io::Result<AsyncFd<Channel>> {
    // SAFETY: a channel owns its socket and gives the same descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) }.map_err(|e| e.into_parts().1)
}

/// Waits until a channel that no runtime keeps registered has something to read.
pub(crate) async fn readable(channel: &Channel) -> io::Result<()> {
    let fd: BorrowedFd<'_> = channel.as_fd();
    // SAFETY: the descriptor is borrowed for longer than the registration lives.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    fd.readable().await?.clear_ready();
    Ok(())
}
