//! Connections of a guest's sandbox to granted hosts.
//!
//! - `inside` and `channel`: the guest's side. The agent accepts at the ports of the gateway, in the sandbox's network namespace.
//! - `outside`: the host's side. It passes the connections to the gateway, as a pair of sockets each.
//!
//! The host decides how many connections exist at once, and counts them itself. All that the guest says about a connection is
//! untrusted.

mod channel;
mod inside;
mod outside;

pub(super) use inside::SandboxNetwork;
pub(super) use outside::Connections;

use super::frame::{StreamId, StreamKind};

/// Returns the streams of a connection: from the guest, and to the guest.
fn streams(connection: u32) -> [StreamId; 2] {
    [StreamKind::Up, StreamKind::Down].map(|kind| StreamId { operation: connection, kind })
}
