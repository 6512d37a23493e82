//! HTTP/1 without TLS: the head of every request on a connection is checked before the request is forwarded.
//!
//! The bytes are forwarded unchanged. A request is therefore refused if two servers could disagree about its end: `head` and
//! `chunks` are stricter than RFC 9112. `forward` has the sockets.

mod chunks;
pub(crate) mod forward;
mod head;

pub use chunks::Chunks;
pub use head::{BodyLength, HeadError, RequestCheck, RequestHead};
