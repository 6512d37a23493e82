//! The description of a requested sandbox and of a command to run in it.

use crate::{Bytes, Limits, NetworkLimits, NetworkSecret, ObjectId, secret};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

/// The access of a sandbox to a granted path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read and execute.
    ReadOnly,
    /// Read, execute, write, create, remove.
    ReadWrite,
    /// Read, execute, write, create and remove, in a directory. Changes stay in the sandbox's scratch file system and are
    /// discarded with the sandbox; the host's files do not change. Only backends whose traits include
    /// [`crate::BackendTraits::copy_on_write`] support this access.
    CopyOnWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::CopyOnWrite => "copy-on-write",
        })
    }
}

/// Whether the guard checks a grant. The guard refuses whole home directories, secrets in home directories, and system
/// directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardRule {
    /// The guard may refuse the grant.
    #[default]
    Apply,
    /// The guard does not check the grant. The command line never sets this rule.
    Waive,
}

/// A path of the host that the sandbox may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// An absolute path on the host. Symbolic links in it are resolved once, when the sandbox is planned. A link that a sandbox
    /// may have created is refused.
    pub path: PathBuf,
    /// The path inside the sandbox; the same as on the host when absent. Only backends with their own root support another path.
    pub target: Option<PathBuf>,
    /// The access to the path.
    pub access: Access,
    /// Names below `path` that stay read-only in a read-write grant, if they exist.
    pub protect: Vec<PathBuf>,
    /// Names below `path` that the caller released from protection. These names and everything below them are writable, even if
    /// `protect`, a setting of git or a link at a protected path names them. Changes to them are still reported.
    #[serde(default)]
    pub unprotected: Vec<PathBuf>,
    /// The object that `path` led to when it was granted. A sandbox does not start if `path` leads to another object when the
    /// sandbox is started. When absent, `path` is resolved when the sandbox is planned.
    #[serde(default)]
    pub object: Option<ObjectId>,
    /// True if the guard checks this grant.
    #[serde(default)]
    pub guard: GuardRule,
}

impl Grant {
    /// Creates a grant of `path`, shown at the same path, without protected names.
    pub fn new(path: impl AsRef<Path>, access: Access) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            target: None,
            access,
            protect: Vec::new(),
            unprotected: Vec::new(),
            object: None,
            guard: GuardRule::Apply,
        }
    }
}

/// The network that a sandbox sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A network namespace with loopback only.
    #[default]
    Off,
    /// The host's network.
    Host,
    /// The granted hosts only. Each network grant has the form `HOST[:PORT][/PROTOCOL][/approve][/METHOD:PATH]`, as in
    /// `pypi.example` or `*.files.example:443`, or as in `time.example:123/udp` for UDP. With `/approve`, connections wait for an
    /// approval ([`crate::Sandbox::network_approvals`]). If a network grant has a method and path, or a secret is
    /// given for a host, the gateway inspects the TLS of that host. Commands then need the variables of
    /// [`crate::Sandbox::network_environment`]. Only backends whose traits include [`crate::BackendTraits::egress`] support
    /// granted hosts.
    Egress(Vec<String>),
}

/// The kind of a [`Network`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NetworkMode {
    /// See [`Network::Off`].
    #[default]
    Off,
    /// See [`Network::Host`].
    Host,
    /// See [`Network::Egress`].
    Egress,
}

impl Network {
    /// Returns the kind.
    pub fn mode(&self) -> NetworkMode {
        match self {
            Self::Off => NetworkMode::Off,
            Self::Host => NetworkMode::Host,
            Self::Egress(_) => NetworkMode::Egress,
        }
    }
}

/// A named bundle of isolation choices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The calls that nearly every program makes. Loopback sockets and Unix sockets are refused.
    Strict,
    /// The system calls that compilers, interpreters and their tests need.
    #[default]
    Default,
    /// The system calls of `Default`, and those of debuggers that have no effect outside the sandbox. `perf_event_open`, the call
    /// of profilers, stays refused.
    Permissive,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Default => "default",
            Self::Permissive => "permissive",
        })
    }
}

/// The root file system of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The host's programs.
    #[default]
    Host,
    /// The unpacked layers of an image, the lowest first. The sandbox does not change them.
    Layers(Vec<PathBuf>),
}

/// The storage for changes to the root of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writable {
    /// In memory; discarded with the sandbox.
    #[default]
    Memory,
    /// In a volume: a file system of this size on the host's disk; discarded with the sandbox. Requires root on the host.
    Volume(Bytes),
    /// In layers on disk, so that the sandbox can be saved, restored and forked; discarded with the sandbox.
    TemporaryLayers,
    /// In these layers on disk, which are kept after the sandbox has ended.
    KeptLayers(DiskLayers),
}

/// The changes to a root, as overlay layers above those of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLayers {
    /// Committed layers of earlier changes, the lowest first. They are immutable, and any number of sandboxes may share them.
    #[serde(rename = "sealed")]
    pub lower: Vec<PathBuf>,
    /// The directory for new changes. It contains `tree`, the upperdir of overlayfs, and `work`, its empty workdir. No other
    /// running sandbox may use this directory.
    #[serde(rename = "top")]
    pub upper: PathBuf,
}

/// The description of a requested sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
// Records of named sandboxes contain this struct. A field missing from an older agentd's record has its default; an unknown
// field, from a newer agentd, is an error.
#[serde(default, deny_unknown_fields)]
pub struct SandboxSpec {
    /// The root file system.
    pub root: Root,
    /// The storage for changes to the root. Only a backend with its own root stores changes.
    pub writable: Writable,
    /// Paths of the host to show in the sandbox, in addition to the system's read-only directories.
    pub grants: Vec<Grant>,
    /// Symbolic links to create in directories private to the sandbox, as pairs of path and target. A link is a name only and
    /// grants nothing.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The path of the home directory. In a view of the host's tree it is empty and private to the sandbox; in an image without
    /// such a directory, it is created. A backend without a boundary ignores it.
    pub home: Option<PathBuf>,
    /// The network.
    pub network: Network,
    /// Limits of the network, if it is [`Network::Egress`]. Bytes are counted from the start of the sandbox's processes.
    pub network_limits: NetworkLimits,
    /// Secrets for requests to hosts that [`Network::Egress`] grants. A spec with secrets can be neither stored nor sent.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty", serialize_with = "secret::refuse_to_store")]
    pub secrets: Vec<NetworkSecret>,
    /// The operators' texts for what [`Network::Egress`] refuses. A program gets them with the response to a refused request.
    pub deny_reasons: Vec<String>,
    /// The profile.
    pub profile: Profile,
    /// Limits of the sandbox as a whole, and default limits of its commands.
    pub limits: Limits,
    /// Whether to continue if a control cannot be applied. [`crate::Sandbox::controls`] reports which control is missing.
    pub allow_degraded: bool,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    /// Rows, in characters.
    pub rows: u16,
    /// Columns, in characters.
    pub cols: u16,
}

/// The source of a command's standard input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinSource {
    /// `/dev/null`.
    #[default]
    Null,
    /// These bytes, then end of file.
    Bytes(Vec<u8>),
    /// The bytes that the caller writes to the exec's handle.
    Stream,
}

/// Serialises a path as an [`OsString`]: serde serialises a path as text, and not every path is valid text.
mod os_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::{
        ffi::OsString,
        path::{Path, PathBuf},
    };

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Path::as_os_str).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<OsString>::deserialize(deserializer)?.map(PathBuf::from))
    }
}

/// A command to run in a sandbox. It can be serialised even if its strings are not UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments. A program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment; the command inherits no other variable.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory inside the sandbox; `/` when absent.
    #[serde(with = "os_path")]
    pub cwd: Option<PathBuf>,
    /// Standard input.
    pub stdin: StdinSource,
    /// A pseudo-terminal of this size instead of pipes. With [`StdinSource::Null`], standard input is still `/dev/null`, and only
    /// output goes to the terminal.
    pub pty: Option<PtySize>,
    /// Limits of this command. The sandbox's own limits apply in addition.
    pub limits: Limits,
    /// The number of bytes of each stream to keep in the outcome.
    pub capture: u64,
}
