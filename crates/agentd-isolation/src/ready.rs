//! Waiting for descriptors with the caller's runtime.

use agentd_supervisor::channel::Channel;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
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

/// Waits until a descriptor that no runtime keeps registered is ready.
pub(crate) async fn once(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for longer than the registration lives.
    let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
    fd.ready(interest).await?.clear_ready();
    Ok(())
}
