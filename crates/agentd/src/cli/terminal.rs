//! The caller's terminal: raw mode, size, and a progress message.

use agentd_core::PtySize;
use agentd_log::LogFailure as _;
use rustix::termios::{OptionalActions, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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

/// A progress message on standard error. It appears after one second, only on a terminal; dropping the value erases it.
pub(crate) struct Progress(Option<tokio::task::JoinHandle<()>>, Arc<AtomicBool>);

impl Progress {
    /// Starts the delay.
    pub(crate) fn show(what: &'static str) -> Self {
        let shown = Arc::new(AtomicBool::new(false));
        let clock = isatty(rustix::stdio::stderr()).then(|| {
            let shown = shown.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                shown.store(true, Ordering::Relaxed);
                eprint!("agentd: {what} …");
            })
        });
        Self(clock, shown)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(clock) = &self.0 {
            clock.abort();
        }
        if self.1.load(Ordering::Relaxed) {
            // Move to the start of the line and erase it (ECMA-48, EL).
            eprint!("\r\x1b[K");
        }
    }
}
