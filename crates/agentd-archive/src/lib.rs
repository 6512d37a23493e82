//! Reads tar archives of unknown origin, as a sequence of records. It writes nothing.
//!
//! Every archive is treated as hostile. [`decompress`] and [`for_each`] keep within [`Bounds`], and their memory does not depend
//! on the archive. Each archive has only one interpretation. The names of records may still lead anywhere: the caller checks
//! them.

mod bounds;
mod compression;
mod error;
mod pax;
mod record;

pub use bounds::{Bound, Bounds};
pub use compression::{Bounded, decompress, is_compressed};
pub use error::{ErrnoContext, UnpackError};
pub use record::{Kind, Record, for_each, lossy};
