//! The words of agentd as types: what a sandbox is asked to be ([`SandboxSpec`]), what is run in it ([`Command`]), how that
//! ended ([`Outcome`]), what a backend can prove ([`BackendCapabilities`]) and the traits that backends implement.
//! No I/O happens here.

mod backend;
mod capabilities;
mod error;
mod limits;
mod outcome;
mod spec;

pub use backend::{ExecHandle, ExecStreams, IsolationBackend, Sandbox, SandboxId};
pub use capabilities::{BackendCapabilities, Bit, Evidence, EvidenceResult};
pub use error::{IsolationError, Layer, LayerError};
pub use limits::{Bytes, CpuQuota, Limits};
pub use outcome::{Captured, EndReason, LayerReport, LayerStatus, Outcome, Usage};
pub use spec::{Access, Command, DiskLayers, Grant, Network, Profile, PtySize, Root, SandboxSpec, StdinSource, Writable};
