//! `firecracker`: hardware isolation by the Firecracker virtual machine monitor, in its jailer where agentd is root.
//!
//! - `config`, `size`: what there is, what a spec comes to, and how fast disks may be.
//! - `disk`, `initramfs`, `snapshot`, `template`: what a machine has on disk.
//! - `room`: the processes that keep Firecracker; `process`: the library's hold on them. `api`, `vitals`: what Firecracker is asked.
//! - `vm`: one Firecracker with its machine; `machine`: what a sandbox does with it; `backend`: how sandboxes come to be.
//! - `boot`: process 1 of the machine, on the other side.

mod api;
mod backend;
pub(crate) mod boot;
mod config;
mod disk;
mod initramfs;
mod machine;
mod process;
pub(crate) mod room;
mod size;
mod snapshot;
mod spare;
mod template;
mod vitals;
mod vm;

pub use backend::FirecrackerBackend;
pub use config::{DiskRate, FirecrackerConfig};
