//! Capabilities: named, versioned operations, each described by a manifest in TOML.

mod argument;
mod bounds;
mod command;
mod manifest;
mod registry;
mod sandbox;
mod session;

pub use argument::{Argument, ArgumentError, Substitution};
pub use bounds::{SandboxBounds, WorkspaceAccess};
pub use command::{CommandLine, CommandTemplate, OutputForm, RequestedPty, StdinTemplate};
pub use manifest::{Annotations, Capability, ManifestError, Run};
pub use registry::{CapabilityRegistry, MAX_MANIFEST, RegistryError, UnknownCapability};
pub use sandbox::{SandboxCall, SandboxCapability};
pub use session::{NEW_SESSION, SessionCall, SessionTemplate};
