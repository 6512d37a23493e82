//! Interpreter sessions: state that is kept from one cell of code to the next.
//!
//! In the sandbox, a *kernel* runs in an interpreter: a small program of this crate ([`Language`], folder `kernels`). The host
//! sends the kernel the source of a *cell* ([`request`]), and reads the kernel's reports until the cell has ended
//! ([`CellReader`]). Requests and reports use a socket. The code writes its output to the standard streams, so no output of a
//! cell can look like a report.
//!
//! The code of a cell can still write to the socket on purpose, and can replace the kernel. The reader therefore treats every
//! byte as hostile, and limits each report and the reports of a cell together. The crate starts no process.

mod cell;
mod frame;
pub mod fuzz;
mod language;

pub use cell::{CellEnd, CellError, CellReader, CellReport, CellStatus, Forms, KernelViolation};
pub use frame::{MAX_FRAME, request};
pub use language::{CONTROL, Language, UnknownLanguage};
