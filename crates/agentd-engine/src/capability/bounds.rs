//! The widest sandbox that a capability gets, for every caller.

use agentd_core::{Limits, Profile};
use agentd_egress::NetGrant;
use agentd_policy::{NetworkBound, Obligations};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The widest sandbox of a capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxBounds {
    /// The weakest profile.
    pub profile: Profile,
    /// The largest limits.
    pub limits: Limits,
    /// The destinations that the sandbox may reach.
    pub network: NetworkBound,
    /// The access to the workspace.
    pub workspace: WorkspaceAccess,
}

/// The access of a capability to the directory that the caller names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceAccess {
    /// The sandbox does not show the directory.
    #[default]
    None,
    /// The sandbox may read the directory.
    ReadOnly,
    /// The sandbox may change the directory.
    ReadWrite,
}

/// The hosts that a manifest names.
#[derive(Default, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(super) enum EgressText {
    /// No host.
    #[default]
    None,
    /// The hosts that the caller requests.
    Requested,
    /// These hosts.
    Hosts(Vec<NetGrant>),
}

impl TryFrom<toml::Value> for EgressText {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let grant = |value: &toml::Value| -> Result<NetGrant, String> {
            let text = value.as_str().ok_or("egress: a host is a string")?;
            text.parse::<NetGrant>().map_err(|error| format!("egress: {error}"))
        };
        match value {
            toml::Value::String(word) if word == "none" => Ok(Self::None),
            toml::Value::String(word) if word == "requested" => Ok(Self::Requested),
            toml::Value::Array(hosts) => Ok(Self::Hosts(hosts.iter().map(grant).collect::<Result<_, String>>()?)),
            _ => Err("egress: write \"none\", \"requested\", or an array of network grants".to_owned()),
        }
    }
}

impl From<EgressText> for NetworkBound {
    fn from(text: EgressText) -> Self {
        match text {
            EgressText::None => Self::none(),
            EgressText::Requested => Self::any_host(),
            EgressText::Hosts(hosts) => Self::hosts_of(hosts),
        }
    }
}

impl SandboxBounds {
    /// Returns the bounds as obligations, which combine with those of the policies. `backends` are the backends with a boundary.
    pub fn obligations(&self, backends: BTreeSet<String>) -> Obligations {
        Obligations {
            profile: self.profile,
            limits: self.limits.clone(),
            network: self.network.clone(),
            backends,
            approvals: BTreeSet::new(),
        }
    }
}
