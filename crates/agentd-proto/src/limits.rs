//! The limits of messages, which server and client share.

/// The longest message that the server accepts: the longest parameters, and the rest of a request.
pub const MAX_REQUEST: usize = (16 << 20) + (64 << 10);

/// The longest message that the client accepts. An outcome has a result, a receipt, and the document with the parameters.
pub const MAX_RESPONSE: usize = 64 << 20;
