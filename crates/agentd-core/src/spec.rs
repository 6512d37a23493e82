//! What a sandbox is asked to be, and what is run in it.

use crate::{Bytes, Limits};
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, path::PathBuf};

/// What a sandbox may do with a granted path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read and execute.
    ReadOnly,
    /// Read, execute, write, create, remove.
    ReadWrite,
}

/// A path of the host that the sandbox may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// An absolute path on the host. Symbolic links in it are resolved once, when the sandbox is planned.
    pub path: PathBuf,
    /// Where it is shown inside; at the same place when absent. Only backends with a root of their own show it elsewhere.
    pub target: Option<PathBuf>,
    /// What may be done with it.
    pub access: Access,
    /// Names below `path` that stay read-only although the grant is read-write, where they exist.
    pub protect: Vec<PathBuf>,
}

/// What of the network a sandbox sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A network namespace with loopback only.
    #[default]
    Off,
    /// The host's network.
    Host,
}

/// A named bundle of isolation choices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The fewest system calls that ordinary programs run with; loopback sockets and Unix sockets refused.
    Strict,
    /// What compilers, interpreters and their tests need.
    #[default]
    Default,
    /// As `Default`, and the system calls of debuggers and profilers that stay inside the sandbox.
    Permissive,
}

/// What a sandbox has as its root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The host's programs.
    #[default]
    Host,
    /// The unpacked layers of an image, the lowest first; they are not changed.
    Layers(Vec<PathBuf>),
}

/// Where what a sandbox changes in its root is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writable {
    /// In memory; gone with the sandbox.
    #[default]
    Memory,
    /// On disk, in a file system of this size; gone with the sandbox. Needs root of the host.
    Volume(Bytes),
    /// On disk, so that the sandbox can be saved, restored and forked; gone with it.
    Layers,
    /// On disk, to be kept.
    Disk(DiskLayers),
}

/// What was changed in a root, in layers over those of its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLayers {
    /// Changes of before, the lowest first; they are not changed any more, and any number of sandboxes may have them.
    pub sealed: Vec<PathBuf>,
    /// Where changes go: a directory in which are `tree`, which takes them, and `work`, empty, which overlayfs needs. No other sandbox
    /// that lives has it.
    pub top: PathBuf,
}

/// What a sandbox is asked to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
// Records of named sandboxes have it: of an older agentd's, what is missing is as if it had not been asked for; a later one's is refused.
#[serde(default, deny_unknown_fields)]
pub struct SandboxSpec {
    /// The root.
    pub root: Root,
    /// Where changes of the root are kept. Only a backend with a root of its own keeps any.
    pub writable: Writable,
    /// Paths of the host to be seen, beside the system's read-only directories.
    pub grants: Vec<Grant>,
    /// Where the home directory is: empty and private where the host's own tree is shown, made where an image has none. Without a
    /// boundary it means nothing.
    pub home: Option<PathBuf>,
    /// The network.
    pub network: Network,
    /// The profile.
    pub profile: Profile,
    /// Limits of the sandbox as a whole, and the default ones of its commands.
    pub limits: Limits,
    /// Whether to go on where a layer cannot be applied. The outcome says which.
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

/// Where standard input comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinSource {
    /// `/dev/null`.
    #[default]
    Null,
    /// These bytes, then end of file.
    Bytes(Vec<u8>),
    /// What the caller writes to the exec's handle.
    Stream,
}

/// One command to be run in a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments. A program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory inside the sandbox; `/` when absent.
    pub cwd: Option<PathBuf>,
    /// Standard input.
    pub stdin: StdinSource,
    /// A pseudo-terminal of this size instead of pipes.
    pub pty: Option<PtySize>,
    /// Limits of this command. A sandbox's own limits hold beside them.
    pub limits: Limits,
    /// How many bytes of each stream to keep in the outcome.
    pub capture: u64,
}
