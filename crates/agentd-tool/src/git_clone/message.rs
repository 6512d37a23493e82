//! The request and the result of a clone.

use crate::byte_string::ByteString;
use serde::{Deserialize, Serialize};

/// Parameters of [`crate::ToolRequest::Clone`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// The URL of the repository, with `https` and without a user name or password.
    pub url: String,
    /// The new directory, which must not exist.
    pub to: ByteString,
    /// The branch or tag to check out; that of the server when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The number of commits of each branch to fetch; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Fetch only the branch that is checked out.
    #[serde(default)]
    pub single_branch: bool,
    /// Also clone the submodules.
    #[serde(default)]
    pub submodules: bool,
    /// The credential for the repository's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CloneCredential>,
    /// The maximum time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// A user name, and the secret that is the password. The process has a placeholder only, which the gateway replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneCredential {
    /// The environment variable that holds the placeholder.
    pub secret: String,
    /// The user name.
    #[serde(default = "token")]
    pub user: String,
}

fn token() -> String {
    "x-access-token".to_owned()
}

/// Result of [`crate::ToolRequest::Clone`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneResult {
    /// The commit that is checked out; absent if the repository is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The branch that is checked out; absent after a checkout of a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// True if the history is not complete.
    pub shallow: bool,
}
