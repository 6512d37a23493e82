//! The caller's terminal: raw mode, size, and a progress message.

use agentd_core::PtySize;
use agentd_log::LogFailure as _;
use rustix::termios::{OptionalActions, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Raw mode; dropping the value restores the previous mode.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Switches standard input to raw mode, if it is a terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Flush, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The call fails only if the terminal no longer exists. `Now` is used because waiting for pending output could block.
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0).or_debug("restore terminal", "standard input");
        // Discard input that the command did not read: it was not meant for the next reader.
        tcflush(rustix::stdio::stdin(), QueueSelector::IFlush).or_debug("flush terminal", "standard input");
    }
}

/// Returns the size of the caller's terminal; 24×80 without a terminal.
pub(crate) fn size() -> PtySize {
    tcgetwinsize(rustix::stdio::stdout())
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or(PtySize { rows: 24, cols: 80 }, |size| PtySize { rows: size.ws_row, cols: size.ws_col })
}

/// Returns the line width for printed text: the terminal's width within 40 to 100 columns; 80 columns without a terminal.
pub(crate) fn width() -> usize {
    let named = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let columns = tcgetwinsize(rustix::stdio::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    columns.or_else(named).unwrap_or(80).clamp(40, 100)
}

/// The time after which a progress message appears.
const DELAY: Duration = Duration::from_millis(300);

/// A progress message on standard error. It appears after [`DELAY`], only on a terminal; dropping the value erases it. A thread
/// prints the message, because the other threads may wait in system calls.
pub(crate) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Starts the delay. The message must fit one line, because only one line is erased.
    pub(crate) fn show(what: impl Into<String>) -> Self {
        if !isatty(rustix::stdio::stderr()) {
            return Self(None);
        }
        let what: String = what.into();
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || report(&ended, DELAY, &what, &mut io::stderr()));
        Self(thread.or_debug("start thread", "progress").map(|thread| (end, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            // A panic of the thread has already been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Prints the message after `delay`, and erases it when the sender is dropped. Prints nothing if that happens before.
fn report(ended: &Receiver<()>, delay: Duration, what: &str, to: &mut impl Write) {
    if ended.recv_timeout(delay) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    // If the terminal is gone, nobody waits for the message.
    let _ = write!(to, "agentd: {what} …").and_then(|()| to.flush());
    let _ = ended.recv();
    // Move to the start of the line and erase it (ECMA-48, EL).
    let _ = write!(to, "\r\x1b[K").and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives the text of a message, and ends its reason with the first text.
    struct Ends(Option<Sender<()>>, Vec<u8>);

    impl Write for Ends {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0 = None;
            Ok(())
        }
    }

    #[test]
    fn message_appears_after_the_delay_and_is_erased() {
        let (end, ended) = channel();
        let mut to = Ends(Some(end), Vec::new());
        report(&ended, Duration::ZERO, "probing x", &mut to);
        assert_eq!(String::from_utf8(to.1).unwrap(), "agentd: probing x …\r\u{1b}[K");
    }

    #[test]
    fn work_that_ends_within_the_delay_has_no_message() {
        let (end, ended) = channel();
        drop(end);
        let mut to = Ends(None, Vec::new());
        report(&ended, Duration::from_secs(600), "probing x", &mut to);
        assert!(to.1.is_empty());
    }
}
