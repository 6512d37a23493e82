//! The input that a caller of the daemon sends to a command.

use super::{stream::CommandChange, writer};
use agentd_server::CallInput;
use bytes::Bytes;
use std::{collections::VecDeque, io, os::fd::OwnedFd};
use tokio::sync::mpsc;

/// The number of bytes that may wait for a command that does not read. No further input is received meanwhile.
const MAX_WAITING: usize = 1 << 20;

/// The number of changes that may wait.
const MAX_CHANGES: usize = 16;

/// The character that a terminal takes for the end of input (`VEOF` in `termios(3)`).
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// The input of a caller of the daemon.
pub(super) struct CallerInput {
    /// Receives bytes, signals and sizes.
    pub receiver: mpsc::Receiver<CallInput>,
    /// The bytes that come first.
    pub first: Vec<u8>,
    /// True if received bytes are input, too. Otherwise the input ends after the first bytes.
    pub is_streamed: bool,
}

/// Starts to write the input of a caller to a command, if the command has an input. Signals and sizes do not wait for bytes that
/// the command does not read, unless these exceed a bound. Returns the signals and sizes.
///
/// # Errors
/// The thread that writes cannot be started.
pub(super) fn feed(input: CallerInput, to: Option<OwnedFd>, is_terminal: bool) -> io::Result<mpsc::Receiver<CommandChange>> {
    let CallerInput { receiver, first, is_streamed } = input;
    let mut feed =
        Feed { pieces: to.map(start_writer).transpose()?, waiting: VecDeque::new(), size: 0, ended: false, is_terminal };
    if !first.is_empty() {
        feed.add(first.into());
    }
    feed.ended = !is_streamed;
    let (changes, changed) = mpsc::channel(MAX_CHANGES);
    tokio::spawn(feed.run(receiver, changes));
    Ok(changed)
}

/// Starts the thread that writes to a command: a terminal or a file cannot be polled.
fn start_writer(to: OwnedFd) -> io::Result<mpsc::Sender<Bytes>> {
    let (pieces, mut received) = mpsc::channel::<Bytes>(1);
    std::thread::Builder::new().name("command-input".to_owned()).spawn(move || {
        while let Some(piece) = received.blocking_recv() {
            // An error means that the command has closed its standard input.
            if writer::write_all(&to, &piece).is_err() {
                return;
            }
        }
    })?;
    Ok(pieces)
}

/// The bytes on their way to a command.
struct Feed {
    /// `None` once the command has closed its input, or has got all of it.
    pieces: Option<mpsc::Sender<Bytes>>,
    waiting: VecDeque<Bytes>,
    /// The number of bytes that wait.
    size: usize,
    /// True if no further bytes follow.
    ended: bool,
    is_terminal: bool,
}

impl Feed {
    async fn run(mut self, mut inputs: mpsc::Receiver<CallInput>, changes: mpsc::Sender<CommandChange>) {
        let mut is_open = true;
        loop {
            if self.ended && self.waiting.is_empty() {
                // The thread then closes the input of the command.
                self.pieces = None;
            }
            if !is_open && self.pieces.is_none() {
                return;
            }
            let (has_room, has_waiting) = (self.size < MAX_WAITING, !self.waiting.is_empty());
            tokio::select! {
                is_written = write_next(&mut self.pieces, &mut self.waiting, &mut self.size), if has_waiting => {
                    if !is_written {
                        self.give_up();
                    }
                }
                input = inputs.recv(), if is_open && has_room => match input {
                    Some(CallInput::Stdin(bytes)) => self.add(bytes),
                    Some(CallInput::EndOfStdin) => self.end(),
                    // The command has ended if nothing receives changes.
                    Some(CallInput::Resize(size)) => is_open = changes.send(CommandChange::Resize(size)).await.is_ok(),
                    Some(CallInput::Signal(number)) => is_open = changes.send(CommandChange::Signal(number)).await.is_ok(),
                    None => {
                        is_open = false;
                        self.end();
                    }
                },
            }
        }
    }

    fn add(&mut self, bytes: Bytes) {
        if !self.ended && self.pieces.is_some() {
            self.size += bytes.len();
            self.waiting.push_back(bytes);
        }
    }

    fn end(&mut self) {
        if self.is_terminal && !self.ended {
            self.add(Bytes::from_static(END_OF_TRANSMISSION));
        }
        self.ended = true;
    }

    /// Discards bytes that the command does not read any more.
    fn give_up(&mut self) {
        self.pieces = None;
        self.waiting.clear();
        self.size = 0;
    }
}

/// Passes the next bytes to the thread that writes. Returns false if that thread has ended. Nothing is lost if the future is
/// dropped.
async fn write_next(pieces: &mut Option<mpsc::Sender<Bytes>>, waiting: &mut VecDeque<Bytes>, size: &mut usize) -> bool {
    let Some(open) = pieces else { return false };
    let Ok(permit) = open.reserve().await else { return false };
    if let Some(bytes) = waiting.pop_front() {
        *size -= bytes.len();
        permit.send(bytes);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::PtySize;
    use std::io::Read as _;

    fn streamed(receiver: mpsc::Receiver<CallInput>) -> CallerInput {
        CallerInput { receiver, first: Vec::new(), is_streamed: true }
    }

    #[tokio::test]
    async fn input_that_is_not_streamed_ends_after_its_first_bytes() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let (sender, receiver) = mpsc::channel(1);
        let input = CallerInput { receiver, first: b"a".to_vec(), is_streamed: false };
        let mut changes = feed(input, Some(writer.into()), false).unwrap();
        sender.send(CallInput::Stdin("b".into())).await.unwrap();
        sender.send(CallInput::Signal(15)).await.unwrap();
        assert!(matches!(changes.recv().await, Some(CommandChange::Signal(15))));
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        assert_eq!(read.await.unwrap().unwrap(), b"a");
    }

    #[tokio::test]
    async fn signal_overtakes_bytes_that_the_command_does_not_read() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, inputs) = mpsc::channel(1);
        let mut changes = feed(streamed(inputs), Some(writer.into()), false).unwrap();
        sender.send(CallInput::Stdin(vec![b'a'; 256 << 10].into())).await.unwrap();
        sender.send(CallInput::Signal(2)).await.unwrap();
        sender.send(CallInput::Resize(PtySize { rows: 1, cols: 2 })).await.unwrap();
        assert!(matches!(changes.recv().await, Some(CommandChange::Signal(2))));
        assert!(matches!(changes.recv().await, Some(CommandChange::Resize(PtySize { rows: 1, cols: 2 }))));
        sender.send(CallInput::Stdin("b".into())).await.unwrap();
        sender.send(CallInput::EndOfStdin).await.unwrap();
        // Bytes after the end are no input.
        sender.send(CallInput::Stdin("c".into())).await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let (mut reader, mut bytes) = (reader, Vec::new());
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = read.await.unwrap().unwrap();
        assert_eq!((bytes.len(), bytes.last()), ((256 << 10) + 1, Some(&b'b')));
    }

    #[tokio::test]
    async fn input_beyond_the_bound_waits_for_the_command() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (sender, inputs) = mpsc::channel(1);
        let _changes = feed(streamed(inputs), Some(writer.into()), false).unwrap();
        let piece = Bytes::from(vec![b'a'; 64 << 10]);
        let mut accepted = 0;
        // The bound, what the pipe and the thread hold, and the channel.
        while accepted < 64 && sender.try_send(CallInput::Stdin(piece.clone())).is_ok() {
            accepted += 1;
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
        assert!((16..24).contains(&accepted), "{accepted}");
        drop(reader);
    }

    #[tokio::test]
    async fn command_that_closes_its_input_does_not_block_the_caller() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (sender, inputs) = mpsc::channel(1);
        let _changes = feed(streamed(inputs), Some(writer.into()), false).unwrap();
        for _ in 0..64 {
            sender.send(CallInput::Stdin(vec![0; 64 << 10].into())).await.unwrap();
        }
    }
}
