//! The first messages on a transport, before streams and messages are multiplexed: both greetings, the purpose of the connection,
//! and the answer.

use super::frame::{self, Frame, GREETING, HEAD};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

fn invalid(error: frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Sends this side's greeting, and receives and checks that of the other side.
pub(super) async fn greet(reader: &mut (impl AsyncRead + Unpin), writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    writer.write_all(&frame::greeting()).await?;
    writer.flush().await?;
    let mut greeting = [0; GREETING];
    reader.read_exact(&mut greeting).await?;
    frame::check_greeting(greeting).map_err(invalid)
}

/// Sends one message of at most `limit` bytes.
pub(super) async fn send(writer: &mut (impl AsyncWrite + Unpin), message: &impl Serialize, limit: usize) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame::encode(&Frame::Message(message), limit, &mut bytes).map_err(invalid)?;
    writer.write_all(&bytes).await?;
    writer.flush().await
}

/// Receives one message of at most `limit` bytes, and reads no byte beyond the message.
pub(super) async fn recv<M: DeserializeOwned>(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<M> {
    let mut bytes = vec![0; HEAD];
    reader.read_exact(&mut bytes).await?;
    let mut head = [0; HEAD];
    head.copy_from_slice(&bytes);
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(invalid(frame::FrameError::TooLong { length, limit }));
    }
    bytes.resize(HEAD + length, 0);
    reader.read_exact(&mut bytes[HEAD..]).await?;
    match frame::decode(&bytes, limit).map_err(invalid)? {
        Some((Frame::Message(message), _)) => Ok(message),
        _ => Err(invalid(frame::FrameError::Malformed("a stream frame before the end of the attach exchange".to_owned()))),
    }
}
