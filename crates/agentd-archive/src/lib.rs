//! Reads tar archives of unknown origin, as a sequence of records. It writes nothing.
//!
//! The archive is hostile until proven otherwise. [`decompress`] and [`for_each`] keep within [`Bounds`], in memory that does not
//! depend on the archive, and each archive has one interpretation only. The names of records may still lead anywhere: the caller
//! checks them.

mod bounds;
mod compression;
mod error;
mod pax;
mod record;

pub use bounds::{Bound, Bounds};
pub use compression::{Bounded, decompress, is_compressed};
pub use error::{ErrnoContext, UnpackError};
pub use record::{Kind, Record, for_each, lossy};
