//! `gondolin` backend: runs sandboxes in virtual machines of Gondolin, a programmable VM monitor with a Node SDK that runs QEMU.
//!
//! - [`install`]: sets up a pinned installation of Gondolin, Node and the guest's image. It starts no machine.
//! - `backend`: the isolation backend, which starts machines from that installation.

mod backend;
pub mod install;

pub use backend::{GondolinBackend, GondolinConfig};
