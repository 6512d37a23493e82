//! Reads trees that a payload wrote, without trusting them. A directory is opened by `openat2` (`man 2 openat2`) beneath the root
//! of its tree and without following links. Its entries are accessed relative to it, so no name leads out, even if the tree
//! changes concurrently. Neither recursion depth nor the number of open descriptors grows with the depth of a tree, which the
//! payload chooses.

mod attributes;
mod compare;
mod copy;
mod merge;
mod open;
mod stack;

pub(crate) use agentd_disk::{empty, lstat, names};
pub(crate) use attributes::{Metadata, apply_metadata, read_metadata};
pub use compare::{Change, ChangeKind};
pub(crate) use compare::{Stacks, compare};
pub(crate) use copy::copy;
pub(crate) use merge::merge;
pub(crate) use open::Tree;
