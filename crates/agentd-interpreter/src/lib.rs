//! Interpreter sessions: state that is kept from one cell of code to the next.
//!
//! In the sandbox, a *kernel* runs in an interpreter: a small program of this crate ([`Language`], folder `kernels`). The host
//! sends it the source of a *cell* ([`request`]), and reads what the kernel reports until the cell has ended ([`CellReader`]).
//! Both travel through a socket. The output of the code travels through the standard streams, so that nothing that a cell prints
//! can look like a report.
//!
//! The code of a cell can still write to the socket on purpose, and can replace the kernel. The reader therefore treats every
//! byte as hostile: its limits hold for each report and for all reports of a cell. The crate starts no process.

mod cell;
mod frame;
pub mod fuzz;
mod language;

pub use cell::{CellEnd, CellError, CellReader, CellReport, CellStatus, Forms, KernelViolation};
pub use frame::{MAX_FRAME, request};
pub use language::{CONTROL, Language, UnknownLanguage};
