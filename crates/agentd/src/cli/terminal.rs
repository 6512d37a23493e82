//! The caller's terminal, raw while a command has a terminal of its own.

use agentd_core::PtySize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

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
        // A terminal that is gone needs no restoring.
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0).ok();
    }
}

/// The size of the caller's terminal, 24×80 without one.
pub(crate) fn size() -> PtySize {
    tcgetwinsize(rustix::stdio::stdout())
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
        .map_or(PtySize { rows: 24, cols: 80 }, |size| PtySize { rows: size.ws_row, cols: size.ws_col })
}

/// Whether a person watches standard error.
pub(crate) fn watched() -> bool {
    isatty(rustix::stdio::stderr())
}
