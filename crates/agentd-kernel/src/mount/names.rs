//! Name files: the files from which programs learn the user, the host name and the name servers (`passwd(5)`, `group(5)`,
//! `hosts(5)`, `nsswitch.conf(5)`, `resolv.conf(5)`).
//!
//! Each file is derived from the file of the host or the image: the sandbox's own lines come first, and the existing lines
//! follow. In a view of the host's tree, read-only mounts show the files over the host's, so that no command can change them for
//! the next command. In a sandbox's own root, they are written into the root before a payload runs.

mod content;
mod file;
mod show;

pub use content::{name_in, renamed};
pub(super) use show::{show, write, write_over};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Account, host name and resolver of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesPlan {
    /// The account in `passwd` and `group`.
    pub account: Account,
    /// The host name.
    pub host: String,
    /// Source of the addresses of other hosts.
    pub resolver: Resolver,
}

/// An account (`passwd(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Name of the user.
    pub user: String,
    /// Name of the group.
    pub group: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Home directory inside.
    #[serde(with = "crate::path_bytes::one")]
    pub home: PathBuf,
}

/// Source of the addresses of other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolver {
    /// No resolver: without a network, each lookup fails immediately.
    Nowhere,
    /// The resolver that the current files configure.
    AsPresent,
    /// A `resolv.conf` with the given content.
    Given {
        /// Path of the file: `/etc/resolv.conf`, or the hidden target if that is a link.
        #[serde(with = "crate::path_bytes::one")]
        place: PathBuf,
        /// Content of the file.
        content: String,
    },
    /// The gateway of the sandbox.
    Gateway {
        /// Path of `resolv.conf`, as in [`Resolver::Given`].
        #[serde(with = "crate::path_bytes::one")]
        place: PathBuf,
    },
}

/// Default host name.
pub const HOST_NAME: &str = "agentd";

/// Maximum size of a name file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// One of the name files, all of which are in `/etc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Passwd,
    Group,
    Hosts,
    Host,
    Switch,
    Resolver,
}

impl Name {
    const ALL: [Self; 6] = [Self::Passwd, Self::Group, Self::Hosts, Self::Host, Self::Switch, Self::Resolver];

    /// Returns the file name in `/etc`.
    fn file(self) -> &'static str {
        match self {
            Self::Passwd => "passwd",
            Self::Group => "group",
            Self::Hosts => "hosts",
            Self::Host => "hostname",
            Self::Switch => "nsswitch.conf",
            Self::Resolver => "resolv.conf",
        }
    }

    /// Returns true if no line of an existing file is kept.
    fn is_replaced(self) -> bool {
        matches!(self, Self::Host | Self::Resolver)
    }
}

impl NamesPlan {
    /// Returns the path of a `resolv.conf` in a covered directory, to which `/etc/resolv.conf` is a link.
    pub(super) fn hidden_resolver(&self) -> Option<&Path> {
        match &self.resolver {
            Resolver::Given { place, .. } | Resolver::Gateway { place } if !place.starts_with("/etc") => Some(place),
            _ => None,
        }
    }

    /// Describes the plan for reports.
    pub fn describe(&self) -> String {
        let Account { user, group, uid, gid, home } = &self.account;
        let resolver = match &self.resolver {
            Resolver::Nowhere => "no resolver".to_owned(),
            Resolver::AsPresent => "the resolver of the root".to_owned(),
            Resolver::Given { place, .. } => format!("the host's resolver in {}", place.display()),
            Resolver::Gateway { .. } => "the gateway as resolver".to_owned(),
        };
        format!("{user} ({uid}), group {group} ({gid}), home {}; host {}, {resolver}", home.display(), self.host)
    }
}
