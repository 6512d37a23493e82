//! Shared parts of the isolation backends, the shared-kernel backends, and the choice of a backend by its *proven* capabilities.
//!
//! A backend in another crate builds on the public modules. [`shared_kernel`] creates sandboxes through the launcher, [`exec`]
//! runs commands, [`probe`] proves capabilities, and [`store`] keeps the folders of running machines.
//!
//! This crate does not decide which backends exist. The program composes a [`Registry`] and the role handlers that it passes to
//! [`take_role`]; `agentd::isolation` is that composition.

pub mod blocking;
mod connection;
pub mod container;
mod data;
pub mod descriptor;
pub mod egress;
pub mod exec;
pub mod explain;
pub mod fallback;
#[doc(hidden)]
pub mod fuzz;
pub mod grants;
pub mod head_tail;
mod host_direct;
mod launcher;
pub mod layered;
pub mod layouts;
mod linux_native;
mod names;
pub mod own_state;
mod pool;
pub mod probe;
pub mod protect;
mod proven;
pub mod rank;
pub mod ready;
mod registry;
mod role;
pub mod sandbox;
pub mod select;
mod send_queue;
pub mod shared_kernel;
pub mod store;
mod targets;
pub mod tracker;

pub use agentd_core::*;
pub use agentd_kernel::mount::root::{Base, RootPlan, Upper};
pub use agentd_supervisor::plan::{SandboxPlan, Tree};
pub use agentd_supervisor::role::Role;
pub use container::{ContainerBackend, ContainerConfig};
pub use data::data_directory;
pub use head_tail::HeadTail;
pub use host_direct::HostDirectBackend;
pub use linux_native::{LinuxNativeBackend, SYSTEM_DIRECTORIES};
pub use pool::{PoolLimits, SandboxPool};
pub use registry::{BuiltIn, Registry};
pub use role::{Handler, take_role};
pub use select::Choice;
pub use shared_kernel::{SharedKernelBackend, has_subordinate_ids};
