//! The request and the result of a fetch.

use crate::{byte_string::ByteString, response::Truncation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Parameters of [`crate::ToolRequest::Fetch`]. The body of the request is its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchRequest {
    /// An absolute URL with `http` or `https`, without a user name or password.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// The headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderSource>,
    /// The maximum number of bytes of the body to return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The maximum number of redirects to follow. With 0, a redirect is returned like any other response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_redirects: Option<u64>,
    /// Follow a redirect from `https` to `http`.
    #[serde(default)]
    pub allow_downgrade: bool,
    /// The maximum time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

fn get() -> String {
    "GET".to_owned()
}

/// The value of a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderSource {
    /// This text.
    Text(String),
    /// The placeholder of a secret.
    Secret(SecretHeader),
}

/// The value of a header with the placeholder of a secret, which the gateway replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretHeader {
    /// The environment variable that holds the placeholder.
    pub secret: String,
    /// The word before the placeholder, such as `Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The user name of HTTP basic authentication, whose password is the placeholder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A header of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchedHeader {
    /// The name, in lower case.
    pub name: String,
    /// The value.
    pub value: ByteString,
}

/// A redirect that was followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowedRedirect {
    /// The status of the response.
    pub status: u16,
    /// The URL that was requested.
    pub url: String,
}

/// Result of [`crate::ToolRequest::Fetch`]. The body of the response is its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchResult {
    /// The status of the last response.
    pub status: u16,
    /// The URL of the last response.
    pub url: String,
    /// The headers of the last response, in the order of their arrival.
    pub headers: Vec<FetchedHeader>,
    /// The redirects that were followed.
    pub redirects: Vec<FollowedRedirect>,
    /// The number of bytes of the body that are returned.
    pub length: u64,
    /// Present if a part of the body is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
}
