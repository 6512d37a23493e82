//! The common vocabulary of agentd as types. [`SandboxSpec`] describes a requested sandbox, [`Command`] a command to run in it,
//! and [`Outcome`] how that command ended. [`BackendCapabilities`] lists what a backend has proven. [`IsolationBackend`],
//! [`Sandbox`] and [`ExecHandle`] are the traits that backends implement. This crate does no I/O.

mod backend;
pub mod calendar;
mod capabilities;
mod control_error;
pub mod duration;
mod error;
pub mod escape;
mod explain;
mod limits;
mod network_approvals;
mod network_limits;
mod network_log;
mod object;
mod outcome;
mod remedy;
mod secret;
mod sources;
mod spec;
mod traits;

pub use backend::{ExecHandle, ExecStreams, IsolationBackend, Sandbox, SandboxId};
pub use capabilities::{BackendCapabilities, Claim, Evidence, EvidenceResult};
pub use control_error::{Control, ControlError};
pub use error::IsolationError;
pub use explain::PlanLine;
pub use limits::{Bytes, CpuQuota, Limits, scaled};
pub use network_approvals::{HostApprovalRequest, HostDecision, NetworkApprovals};
pub use network_limits::{DelayedBy, NetworkLimits};
pub use network_log::{DatagramCount, NetworkFlow, NetworkLog, NetworkVerdict};
pub use object::ObjectId;
pub use outcome::{Captured, ControlReport, ControlStatus, EndReason, Outcome, Usage};
pub use remedy::Remedy;
pub use secret::NetworkSecret;
pub use sources::with_sources;
pub use spec::{
    Access, Command, DiskLayers, Grant, GuardRule, Network, NetworkMode, Profile, PtySize, Root, SandboxSpec, StdinSource,
    Writable,
};
pub use traits::{BackendTraits, Startup};
