//! Isolation backends: the registry of them, the choice among them by what each has *proven*, and the backends themselves.
//!
//! A program that embeds this library calls [`take_role`] first in its `main`: sandboxes are made by a small process that is
//! this same program, executed anew.

mod container;
mod data;
mod descriptor;
mod exec;
mod fallback;
mod firecracker;
mod gondolin;
mod grants;
pub mod guest;
mod host_direct;
mod launcher;
pub mod layered;
mod link;
mod linked;
mod linux_native;
mod outbox;
mod output;
mod pool;
mod probe;
mod ready;
mod registry;
mod role;
mod sandbox;
mod select;
mod store;
mod tracker;

pub use agentd_core::*;
pub use agentd_kernel::mount::root::{Base, RootPlan, Top};
pub use agentd_supervisor::plan::{SandboxPlan, Tree};
pub use container::ContainerBackend;
pub use data::data_directory;
pub use firecracker::{DiskRate, FirecrackerBackend, FirecrackerConfig};
pub use gondolin::{GondolinBackend, GondolinConfig};
pub use host_direct::HostDirectBackend;
pub use linked::{LinkedBackend, has_subordinate_ids};
pub use linux_native::{LinuxNativeBackend, SYSTEM_DIRECTORIES};
pub use pool::{PoolLimits, SandboxPool};
pub use registry::{Factory, available_backends, canonical_backend_name, create_backend, register_backend_factory};
pub use role::take_role;
pub use select::{detect_best_backend, require_backend};
