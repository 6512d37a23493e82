//! The capabilities that create, use and remove named sandboxes.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;

/// A capability that works on a named sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxCapability {
    /// The name of the operation in [`SandboxCall`].
    operation: &'static str,
    /// A JSON object: `name`, `description`, `annotations`, `sandbox`, and JSON Schemas (2020-12) in `parameters` and `result`.
    pub(super) manifest: &'static str,
}

macro_rules! capability {
    ($operation:literal) => {
        SandboxCapability {
            operation: $operation,
            manifest: include_str!(concat!("../../capabilities/sandbox.", $operation, ".v1.json")),
        }
    };
}

/// All capabilities that work on named sandboxes.
pub(super) static SANDBOX_CAPABILITIES: [SandboxCapability; 13] = [
    capability!("create"),
    capability!("diff"),
    capability!("fork"),
    capability!("get"),
    capability!("inspect"),
    capability!("list"),
    capability!("read"),
    capability!("restore"),
    capability!("resume"),
    capability!("snapshot"),
    capability!("suspend"),
    capability!("terminate"),
    capability!("write"),
];

/// An operation on the named sandboxes of a principal. Names are those that the principal has chosen.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SandboxCall {
    /// Creates a sandbox under the terms of the intent.
    Create {
        /// The name.
        sandbox: String,
        /// The maximum time without use, in seconds.
        idle_ttl_s: Option<u64>,
        /// The maximum lifetime, in seconds.
        ttl_s: Option<u64>,
    },
    /// Lists sandboxes.
    List {
        /// The most sandboxes of the result.
        limit: Option<usize>,
        /// The name after which the result begins.
        after: Option<String>,
    },
    /// Describes a sandbox.
    Get {
        /// The name.
        sandbox: String,
    },
    /// Returns what was proven about the boundary of a sandbox.
    Inspect {
        /// The name.
        sandbox: String,
    },
    /// Pauses all processes.
    Suspend {
        /// The name.
        sandbox: String,
    },
    /// Continues all processes.
    Resume {
        /// The name.
        sandbox: String,
    },
    /// Saves the files.
    Snapshot {
        /// The name.
        sandbox: String,
        /// The name of the new snapshot.
        snapshot: String,
    },
    /// Restores the files of a snapshot.
    Restore {
        /// The name.
        sandbox: String,
        /// The snapshot.
        snapshot: String,
    },
    /// Creates a sandbox with the files of another.
    Fork {
        /// The name of the other sandbox.
        sandbox: String,
        /// The snapshot; `None` for the present files.
        snapshot: Option<String>,
        /// The name of the new sandbox.
        new: String,
    },
    /// Lists changed files.
    Diff {
        /// The name.
        sandbox: String,
        /// The snapshot; `None` for the creation of the sandbox.
        since: Option<String>,
        /// The most changes of the result.
        limit: Option<usize>,
    },
    /// Removes a sandbox.
    Terminate {
        /// The name.
        sandbox: String,
    },
    /// Reads a file.
    Read {
        /// The name.
        sandbox: String,
        /// The absolute path.
        path: String,
        /// The number of bytes before the part to read.
        offset: Option<u64>,
        /// The most bytes to read.
        length: Option<usize>,
    },
    /// Writes a file.
    Write {
        /// The name.
        sandbox: String,
        /// The absolute path.
        path: String,
        /// The content as text.
        text: Option<String>,
        /// The content in base64.
        base64: Option<String>,
    },
}

impl SandboxCall {
    /// Returns the name of the existing or new sandbox; `None` for a list.
    pub fn sandbox(&self) -> Option<&str> {
        match self {
            Self::List { .. } => None,
            Self::Create { sandbox, .. }
            | Self::Get { sandbox }
            | Self::Inspect { sandbox }
            | Self::Suspend { sandbox }
            | Self::Resume { sandbox }
            | Self::Snapshot { sandbox, .. }
            | Self::Restore { sandbox, .. }
            | Self::Fork { sandbox, .. }
            | Self::Diff { sandbox, .. }
            | Self::Terminate { sandbox }
            | Self::Read { sandbox, .. }
            | Self::Write { sandbox, .. } => Some(sandbox),
        }
    }
}

/// Prints no content of files, because it may contain secrets.
impl fmt::Debug for SandboxCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SandboxCall({:?})", self.sandbox())
    }
}

impl SandboxCapability {
    /// Returns the operation for valid parameters.
    ///
    /// # Errors
    /// A message, if the parameters do not match the schema.
    pub(crate) fn call(&self, parameters: &Map<String, Value>) -> Result<SandboxCall, String> {
        let tagged = Map::from_iter([(self.operation.to_owned(), Value::Object(parameters.clone()))]);
        serde_json::from_value(Value::Object(tagged)).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Capability, Run};
    use serde_json::json;

    #[test]
    fn parameters_that_a_schema_accepts_are_an_operation() {
        for of in &SANDBOX_CAPABILITIES {
            let capability = Capability::try_from(of).unwrap();
            assert_eq!(capability.id(), format!("sandbox.{}.v1", of.operation));
            assert!(matches!(capability.run, Run::Sandbox(run) if run == of) && capability.result.is_some());
            let all = json!({ "sandbox": "a", "snapshot": "s", "new": "b", "path": "/p", "text": "t" });
            let properties = capability.parameters.text()["properties"].as_object().unwrap();
            let own: Map<_, _> =
                all.as_object().unwrap().clone().into_iter().filter(|(name, _)| properties.contains_key(name)).collect();
            capability.parameters.validate(&Value::Object(own.clone())).unwrap();
            let call = of.call(&own).unwrap();
            assert_eq!(call.sandbox(), own.get("sandbox").and_then(Value::as_str), "{}", of.operation);
        }
    }

    #[test]
    fn names_that_are_paths_or_too_long_or_have_control_characters_are_refused() {
        for of in SANDBOX_CAPABILITIES.iter().filter(|of| of.operation != "list") {
            let parameters = Capability::try_from(of).unwrap().parameters;
            for name in ["", ".", "..", "../a", "a/b", "/a", "A", "a\n", "\na", "a\u{0}", "ä", &"x".repeat(65)] {
                let violations = parameters.validate(&json!({ "sandbox": name })).unwrap_err();
                assert!(violations.list.iter().any(|violation| violation.pointer == "/sandbox"), "{}: {name:?}", of.operation);
            }
        }
    }
}
