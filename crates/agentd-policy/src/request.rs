//! Requests to use a capability, in the form in which policies decide about them.

use agentd_records::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{fmt, net::IpAddr};

/// One request to use a capability, as policies see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    /// The principal that makes the request.
    pub principal: PolicyPrincipal,
    /// The name of the capability, such as `shell.exec.v1`.
    pub capability: String,
    /// The files, hosts, images and sandboxes that the request reads, changes or reaches. Every resource must be permitted. A
    /// request without a resource is decided about the installation, `System::"agentd"`.
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// The parameters of the capability. Policies see those that the capability declares and that Cedar can express.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The secrets that the sandbox may use, without their values.
    #[serde(default)]
    pub secrets: Vec<RequestedSecret>,
    /// When the request was received.
    pub time: Timestamp,
    /// How the request was received.
    pub source: RequestSource,
}

/// The principal that makes a request. The transport states the principal; the request itself cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyPrincipal {
    /// The kind.
    pub kind: PrincipalKind,
    /// The name, such as `uid:1000` or `ci`.
    pub name: String,
    /// The names of the groups of the principal.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The name of the user for whom an agent acts. Policies for that user then apply to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acts_for: Option<String>,
}

/// The kind of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    /// A person, or an account of the operating system.
    User,
    /// A program that a language model controls.
    Agent,
    /// Another program.
    Service,
}

/// A file, host, image or sandbox that a request reads, changes or reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type", deny_unknown_fields)]
pub enum Resource {
    /// A file or directory of the host.
    Path {
        /// The absolute path without links, `.` and `..`.
        path: String,
        /// True if the request may change it.
        #[serde(default)]
        write: bool,
    },
    /// A host of the network.
    Host {
        /// The name in the normal form of [`agentd_egress::name::HostName`], or the address.
        name: String,
        /// The port.
        port: u16,
    },
    /// An image.
    Image {
        /// The repository, such as `docker.io/library/debian`.
        repository: String,
        /// The tag or digest.
        version: String,
    },
    /// A sandbox.
    Sandbox {
        /// The name.
        name: String,
        /// The owner, as [`PolicyPrincipal::id`] returns it.
        owner: String,
    },
}

/// A secret that the gateway puts into requests to one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestedSecret {
    /// The name: the environment variable that holds the placeholder, or the beginning of the variables of a key.
    pub name: String,
    /// The name of the host.
    pub host: String,
}

/// How a request was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestSource {
    /// The transport, such as `command-line` or `local-socket`.
    pub transport: String,
    /// The address of the remote end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl PrincipalKind {
    /// Returns the Cedar entity type.
    pub(crate) fn entity_type(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Agent => "Agent",
            Self::Service => "Service",
        }
    }
}

impl PolicyPrincipal {
    /// Returns the text that identifies the principal among all kinds, such as `agent:ci`.
    pub fn id(&self) -> String {
        format!("{}:{}", self.kind.entity_type().to_ascii_lowercase(), self.name)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, write } => write!(f, "path {path} ({})", if *write { "to change" } else { "to read" }),
            Self::Host { name, port } => write!(f, "host {name}, port {port}"),
            Self::Image { repository, version } => write!(f, "image {repository}, version {version}"),
            Self::Sandbox { name, owner } => write!(f, "sandbox {name} of {owner}"),
        }
    }
}
