//! Entry points of the fuzz targets in `fuzz/`: parsers of files that a payload or another program may have written. Each entry
//! point returns how much of its input was valid, or the invariant that the input broke.

pub use crate::{
    protect::fuzz::{git_config, git_index},
    proven::fuzz::proofs,
};
