//! The caller of a request, after its authentication.

use agentd_policy::{PolicyPrincipal, RequestSource};
use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc};

/// The caller of a request. Only a transport creates one, after it has authenticated its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The principal in whose name the request is made.
    pub principal: PolicyPrincipal,
    /// The transport, as records and policies name it: `local-socket`, `mcp-stdio`, `mcp-http`, `rest` or `grpc`.
    pub transport: &'static str,
    /// The address of the remote end; `None` for a Unix socket and for standard input.
    pub address: Option<IpAddr>,
    /// True if the peer is a process of the user who runs this daemon, and reached it by a Unix socket or by standard input. Only
    /// such a caller has the daemon's own access to files, so only it may name directories that the configuration does not list.
    pub is_operator: bool,
    /// The restrictions of the caller's credential.
    pub scope: Arc<CallerScope>,
}

/// The restrictions of a credential. Policies decide about what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallerScope {
    /// The permitted capabilities; `None` permits all.
    pub capabilities: Option<BTreeSet<String>>,
    /// Lists of directories, without links. A workspace must be at or below a directory of each list.
    pub workspaces: Vec<Vec<PathBuf>>,
}

impl Caller {
    /// Returns how the request was received.
    pub fn source(&self) -> RequestSource {
        RequestSource { transport: self.transport.to_owned(), address: self.address }
    }
}
