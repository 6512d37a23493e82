//! The caller's terminal, raw while a command has a terminal of its own.

use agentd_core::PtySize;
use rustix::termios::{OptionalActions, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Raw mode until dropped.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Makes standard input raw, where it is a terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Flush, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring. To restore it "after output" would wait for a writer that may stand still.
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0).ok();
        // Keys that the command did not read were not meant for whoever reads next.
        tcflush(rustix::stdio::stdin(), QueueSelector::IFlush).ok();
    }
}

/// The size of the caller's terminal, 24×80 without one.
pub(crate) fn size() -> PtySize {
    tcgetwinsize(rustix::stdio::stdout())
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or(PtySize { rows: 24, cols: 80 }, |size| PtySize { rows: size.ws_row, cols: size.ws_col })
}

/// A line that says what takes so long, after a second, to a person who watches standard error; gone when dropped.
pub(crate) struct Progress(Option<tokio::task::JoinHandle<()>>, Arc<AtomicBool>);

impl Progress {
    /// Starts the clock.
    pub(crate) fn of(what: &'static str) -> Self {
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
            // To the head of the line, and clear it (ECMA-48, EL).
            eprint!("\r\x1b[K");
        }
    }
}
