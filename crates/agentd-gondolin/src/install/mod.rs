//! A pinned installation of Gondolin: its package, the Node that runs it, and the assets of its machines. This module starts no
//! machine.
//!
//! [`set_up`] creates an installation from a directory of *downloads*. This directory is filled from npm, PyPI and Debian, or
//! copied from another host. All further steps work offline.
//!
//! Each part of an installation is a directory named after a digest of its inputs, and appears complete or not at all.
//! `installation.json` is written last and names the parts that belong together.
//!
//! Data flow: `downloads` fetches packages. `programs` unpacks Node and Zig and installs Gondolin's package. `daemons` builds the
//! programs that Gondolin runs in a guest. `root` provides the guest's file tree. `guest` builds kernel, initramfs and root file
//! system. `installation` is the result.

mod daemons;
mod downloads;
mod error;
mod guest;
mod installation;
mod part;
mod programs;
mod root;
mod setup;
mod tool;

pub use error::SetupError;
pub use installation::{GONDOLIN_VERSION, Installation};
pub use setup::{SetupRequest, set_up};
