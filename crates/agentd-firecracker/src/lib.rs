//! `firecracker` backend: runs sandboxes in Firecracker microVMs. Each Firecracker runs in a *jail* of namespaces. If root runs
//! agentd, Firecracker's own *jailer* starts it.
//!
//! - `config`, `size`: the configuration, and the size of the machine for a spec.
//! - `disk`, `files`, `initramfs`, `snapshot`, `template`: the files of a machine.
//! - `jail`: the shim and the jail init, which contain one Firecracker; `process`: the library's handle to them.
//! - `api`, `metrics_pipe`: the client of Firecracker's API, and the reader of its metrics.
//! - `vm`: one Firecracker with its machine; `spare`: a Firecracker started ahead of the next restore.
//! - `machine`: the operations of a sandbox on its machine; `backend`: creates sandboxes.
//! - `boot`: process 1 of the guest.

mod api;
mod backend;
mod boot;
mod config;
mod disk;
mod files;
mod initramfs;
mod jail;
mod machine;
mod metrics_pipe;
mod process;
mod size;
mod small_writes;
mod snapshot;
mod spare;
mod template;
mod vm;

pub use backend::FirecrackerBackend;
pub use config::{DiskRate, FirecrackerConfig};

use agentd_isolation::Handler;
use agentd_supervisor::role::Role;

/// The handler of [`Role::Shim`]: the process that owns the jail of one Firecracker.
pub const SHIM: Handler = Handler { role: Role::Shim, main: |arguments| jail::main(arguments) };

/// The handler of [`Role::Init`]: process 1 of each guest.
pub const INIT: Handler = Handler { role: Role::Init, main: |_| boot::main() };
