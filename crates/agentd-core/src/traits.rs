//! The properties of a backend's sandboxes that are known without a probe.

/// The properties that a caller must know to write a spec for a backend.
///
/// These properties are not a proof: [`crate::IsolationBackend::probe`] proves what a sandbox isolates. The default describes an
/// unknown backend. Such a backend has a boundary and must refuse requests that it cannot enforce. It receives no optional
/// request, and is selected last among backends with the same score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendTraits {
    /// Whether a boundary separates commands from the host. A backend without a boundary is selected only by its name.
    pub boundary: bool,
    /// Whether each sandbox runs on its own kernel, in a virtual machine.
    pub own_kernel: bool,
    /// Whether each sandbox has its own root file system, instead of a view of the host's.
    pub own_root: bool,
    /// Whether commands have uid 0 in the sandbox.
    pub uid_zero: bool,
    /// Whether a grant can be mounted at a path other than its host path ([`crate::Grant::target`]).
    pub moves_grants: bool,
    /// Whether a grant can be copy-on-write ([`crate::Access::CopyOnWrite`]), so that the caller's package caches may be granted.
    pub copy_on_write: bool,
    /// Whether programs installed on the host run in the sandbox, so that the caller's toolchains may be granted.
    pub host_tools: bool,
    /// Whether the root can be that of an image ([`crate::Root::Layers`]).
    pub images: bool,
    /// Whether written data can be limited to a size on disk ([`crate::Writable::Volume`]).
    pub volumes: bool,
    /// Whether the network can be limited to granted hosts ([`crate::Network::Egress`]).
    pub egress: bool,
    /// Whether the backend can create sandboxes with fewer controls on a host that lacks some of them
    /// ([`crate::SandboxSpec::allow_degraded`]).
    pub degradable: bool,
    /// The order of magnitude of a sandbox's start time.
    pub startup: Startup,
}

/// The order of magnitude of the time that a sandbox takes to start. A shorter time compares as less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Startup {
    /// Under a second.
    Milliseconds,
    /// A second or more.
    Seconds,
}

impl BackendTraits {
    /// The traits of an unknown backend.
    pub const UNKNOWN: Self = Self {
        boundary: true,
        own_kernel: false,
        own_root: false,
        uid_zero: false,
        moves_grants: false,
        copy_on_write: false,
        host_tools: false,
        images: false,
        volumes: false,
        egress: false,
        degradable: false,
        startup: Startup::Seconds,
    };
}

impl Default for BackendTraits {
    fn default() -> Self {
        Self::UNKNOWN
    }
}
