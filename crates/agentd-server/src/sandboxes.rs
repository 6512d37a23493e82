//! Operations on named sandboxes: each is an intent with one of the capabilities `sandbox.*`. REST and gRPC share these types.

use crate::{
    request::{ExecuteRequest, NetworkRequest, RequestedLimits, WorkspaceRequest},
    service::ServedIntent,
};
use agentd_core::Profile;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The request to create a sandbox. The options ask for a stricter sandbox than policies permit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSandbox {
    /// The name: 1 to 40 of `a-z`, `0-9`, `.`, `_` and `-`, the first a letter or a digit.
    pub sandbox: String,
    /// The time in seconds after which an unused sandbox is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ttl_s: Option<u64>,
    /// The time in seconds after which the sandbox is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// The directory of the host that the sandbox shows.
    #[serde(default, skip_serializing)]
    pub workspace: Option<WorkspaceRequest>,
    /// The system calls that are allowed: `strict`, `default` or `permissive`.
    #[serde(default, skip_serializing)]
    #[schema(value_type = Option<String>)]
    pub profile: Option<Profile>,
    /// The limits of all commands together. Those of time and output are stated for each command instead.
    #[serde(default, skip_serializing)]
    pub limits: RequestedLimits,
    /// The hosts that the sandbox may reach.
    #[serde(default, skip_serializing)]
    pub network: Option<NetworkRequest>,
}

/// A named sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SandboxObject {
    /// The name.
    pub sandbox: String,
    /// The principal who created the sandbox.
    pub owner: String,
    /// `stopped`, `live`, `paused` or `changing`. A stopped sandbox has no process, and the next command starts them.
    pub state: String,
    /// The number of running commands, if it is known.
    pub commands: Option<u64>,
    /// When the sandbox was created, in seconds since 1970.
    pub created: u64,
    /// When the sandbox was last used, in seconds since 1970.
    pub used: u64,
    /// The time in seconds after which an unused sandbox is removed.
    pub idle_ttl_s: Option<u64>,
    /// The time in seconds after which the sandbox is removed.
    pub ttl_s: Option<u64>,
    /// The sandbox, or the sandbox and snapshot (`NAME@SNAPSHOT`), of which this one is a fork.
    pub parent: Option<String>,
    /// The image, if the sandbox does not show the programs of the host.
    pub image: Option<String>,
    /// The backend.
    pub backend: String,
    /// The system calls that are allowed.
    pub profile: String,
    /// The hosts that the sandbox may reach.
    pub network: Vec<String>,
    /// The limits of all processes together, by name and unit.
    #[schema(value_type = Object)]
    pub limits: Map<String, Value>,
    /// The directory of the host that the sandbox shows.
    pub workspace: Option<WorkspaceRequest>,
    /// The snapshots.
    pub snapshots: Vec<SnapshotObject>,
}

/// A snapshot of a named sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SnapshotObject {
    /// The name.
    pub snapshot: String,
    /// When it was saved, in seconds since 1970.
    pub created: u64,
}

/// A page of sandboxes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SandboxPage {
    /// The sandboxes, by name.
    pub sandboxes: Vec<SandboxObject>,
    /// The cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What was proven about the boundary of a sandbox on the daemon's machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SandboxCapabilities {
    /// The name.
    pub sandbox: String,
    /// The backend.
    pub backend: String,
    /// True if the daemon itself has proven the claims.
    pub proven: bool,
    /// The claims, each true only if attacks on it failed on this machine.
    #[schema(value_type = Object)]
    pub claims: std::collections::BTreeMap<String, bool>,
    /// True if files are kept from one command to the next.
    pub persistent: bool,
    /// True if the sandbox can be saved and restored.
    pub snapshots: bool,
}

/// The changed files of a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SandboxChanges {
    /// The changes, by path.
    pub changes: Vec<SandboxChange>,
    /// The number of all changes.
    pub total: u64,
}

/// A changed file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct SandboxChange {
    /// `added`, `changed` or `removed`.
    pub kind: String,
    /// The path. Bytes that are not UTF-8 are replaced.
    pub path: String,
}

/// The sandbox that was terminated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct TerminatedSandbox {
    /// The name.
    pub sandbox: String,
}

/// A part of a file in a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct FilePart {
    /// The size of the file in bytes.
    pub size: u64,
    /// The number of bytes before the content.
    pub offset: u64,
    /// The length of the content in bytes.
    pub length: u64,
    /// `text` or `base64`.
    pub encoding: String,
    /// The content.
    pub content: String,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct WrittenFile {
    /// The path.
    pub path: String,
    /// The length of the content in bytes.
    pub length: u64,
}

/// Returns the request for an operation. Members of the parameters that are null are left out.
pub(crate) fn request(operation: &str, parameters: Value) -> ExecuteRequest {
    let mut parameters = match parameters {
        Value::Object(parameters) => parameters,
        _ => Map::new(),
    };
    parameters.retain(|_, value| !value.is_null());
    ExecuteRequest { capability: format!("sandbox.{operation}.v1"), parameters, ..ExecuteRequest::default() }
}

impl NewSandbox {
    /// Returns the request to create this sandbox.
    pub fn request(self) -> ExecuteRequest {
        let parameters = serde_json::to_value(&self).unwrap_or_default();
        let Self { workspace, profile, limits, network, .. } = self;
        ExecuteRequest { workspace, profile, limits, network, ..request("create", parameters) }
    }
}

/// Returns the result of an operation that has ended, or the object of its intent if it has none. An object without an error gets
/// one.
pub(crate) fn result<T: DeserializeOwned>(served: ServedIntent) -> Result<T, Box<Value>> {
    let mut object = served.ended.object;
    if object["error"].is_null() {
        if let Ok(result) = serde_json::from_value(object["result"].take()) {
            return Ok(result);
        }
        let (code, message) = match object["status"].as_str() {
            Some("interrupted") => {
                ("interrupted", "the daemon was killed meanwhile, so it is not known what was done — look first")
            }
            _ => ("result-lost", "the result of the first request was too long to be kept — send the request with another key"),
        };
        object["error"] = serde_json::json!({ "code": code, "message": message });
    }
    Err(Box::new(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_engine::EndedIntent;
    use serde_json::json;

    fn served(object: Value) -> ServedIntent {
        ServedIntent { ended: EndedIntent { object, receipt: None, document: None }, notices: Vec::new() }
    }

    #[test]
    fn options_of_a_new_sandbox_are_no_parameters() {
        let text = json!({ "sandbox": "dev", "ttl_s": 5, "workspace": { "path": "/srv" }, "limits": { "processes": 7 } });
        let request = serde_json::from_value::<NewSandbox>(text).unwrap().request();
        assert_eq!(request.parameters, *json!({ "sandbox": "dev", "ttl_s": 5 }).as_object().unwrap());
        assert_eq!((request.workspace.unwrap().path, request.limits.processes), ("/srv".to_owned(), Some(7)));
        assert_eq!(request.capability, "sandbox.create.v1");
    }

    #[test]
    fn operation_without_result_has_an_error() {
        let good: TerminatedSandbox =
            result(served(json!({ "status": "finished", "error": null, "result": { "sandbox": "a" } }))).unwrap();
        assert_eq!(good.sandbox, "a");
        let code = |object: Value| result::<TerminatedSandbox>(served(object)).unwrap_err()["error"]["code"].clone();
        assert_eq!(code(json!({ "status": "finished", "error": { "code": "unknown-sandbox" } })), "unknown-sandbox");
        assert_eq!(code(json!({ "status": "interrupted", "error": null, "result": null })), "interrupted");
        assert_eq!(code(json!({ "status": "finished", "error": null, "result": null })), "result-lost");
    }
}
