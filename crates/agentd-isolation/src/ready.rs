//! Registers descriptors with the caller's tokio runtime, to wait until they are ready.

use agentd_supervisor::channel::Channel;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Registers an owned descriptor with the current runtime.
///
/// # Errors
/// The error of the registration with `epoll(7)`.
pub fn owned(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `OwnedFd` owns its descriptor and returns the same one during its whole lifetime.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Registers a channel for reading with the current runtime.
pub(crate) fn channel(channel: Channel) -> io::Result<AsyncFd<Channel>> {
    // SAFETY: a channel owns its socket and returns the same descriptor during its whole lifetime.
    unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) }.map_err(|e| e.into_parts().1)
}

/// Waits until a descriptor is ready. Registers it only for the duration of the call.
///
/// # Errors
/// The error of the registration with `epoll(7)`.
pub async fn once(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for longer than the registration exists.
    let fd = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
    fd.ready(interest).await?.clear_ready();
    Ok(())
}
