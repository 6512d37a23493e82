//! Translates the arguments of a tool into a request.

use super::catalog::McpWorkspace;
use crate::request::{ExecuteRequest, NetworkRequest, WorkspaceRequest};
use agentd_engine::{Capability, WorkspaceAccess};
use serde_json::{Map, Value};

/// The argument with the workspace.
pub(super) const WORKSPACE: &str = "_workspace";
/// The argument with the named sandbox.
pub(super) const SANDBOX: &str = "_sandbox";
/// The argument with the granted hosts.
pub(super) const NETWORK: &str = "_network";

/// The reason why the arguments of a tool are no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidArguments {
    /// The workspace is not a string.
    #[error("{WORKSPACE}: not a string — write the absolute path of a directory, or leave the argument out")]
    Workspace,
    /// The hosts are not a list of strings.
    #[error("{NETWORK}: not a list of strings — write network grants, such as [\"pypi.org\"], or leave the argument out")]
    Network,
    /// The sandbox is not a string.
    #[error("{SANDBOX}: not a string — write the name of a sandbox from sandbox_list_v1, or leave the argument out")]
    Sandbox,
    /// The workspace is fixed.
    #[error("{WORKSPACE}: the workspace of this server is fixed — leave the argument out")]
    Fixed,
}

/// Returns the request for the arguments of a capability's tool. An argument that the capability itself has is one of its
/// parameters.
pub(super) fn request(
    capability: &Capability,
    mut arguments: Map<String, Value>,
    workspace: &McpWorkspace,
) -> Result<ExecuteRequest, InvalidArguments> {
    let properties = capability.parameters.text().get("properties");
    let is_own = |name: &str| properties.is_some_and(|properties| properties.get(name).is_some());
    let mut take = |name: &str| if is_own(name) { None } else { arguments.remove(name) };
    let (named, hosts, sandbox) = (take(WORKSPACE), take(NETWORK), take(SANDBOX));
    let directory = match (workspace, named) {
        (McpWorkspace::Fixed(_), Some(_)) => return Err(InvalidArguments::Fixed),
        (McpWorkspace::Fixed(path), None) => path.clone(),
        (McpWorkspace::Argument, None) => None,
        (McpWorkspace::Argument, Some(Value::String(path))) => Some(path),
        (McpWorkspace::Argument, Some(_)) => return Err(InvalidArguments::Workspace),
    };
    let sandbox = match sandbox {
        None => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(InvalidArguments::Sandbox),
    };
    // A named sandbox has a workspace of its own. One that the caller itself names beside the sandbox is refused.
    let is_implied = sandbox.is_some() && matches!(workspace, McpWorkspace::Fixed(_));
    let shows_workspace = !is_implied && capability.bounds.workspace > WorkspaceAccess::None;
    let network = match hosts {
        None => None,
        Some(hosts) => {
            let allow = serde_json::from_value(hosts).map_err(|_| InvalidArguments::Network)?;
            Some(NetworkRequest { allow })
        }
    };
    Ok(ExecuteRequest {
        capability: capability.id(),
        parameters: arguments,
        workspace: directory.filter(|_| shows_workspace).map(|path| WorkspaceRequest { path, read_only: false }),
        network,
        sandbox,
        ..ExecuteRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_engine::CapabilityRegistry;
    use serde_json::json;

    fn of(capability: &str, arguments: Value, workspace: &McpWorkspace) -> Result<ExecuteRequest, InvalidArguments> {
        let registry = CapabilityRegistry::built_in().unwrap();
        let Value::Object(arguments) = arguments else { panic!("an object") };
        request(registry.find(capability).unwrap(), arguments, workspace)
    }

    #[test]
    fn reserved_arguments_are_no_parameters() {
        let arguments = json!({ "command": "ls", "_workspace": "/srv/ci", "_network": ["a.example"] });
        let request = of("shell.exec.v1", arguments, &McpWorkspace::Argument).unwrap();
        assert_eq!(request.parameters, json!({ "command": "ls" }).as_object().unwrap().clone());
        assert_eq!(request.workspace.unwrap().path, "/srv/ci");
        assert_eq!(request.network.unwrap().allow, ["a.example"]);
    }

    #[test]
    fn model_cannot_name_a_workspace_where_the_user_has_fixed_it() {
        let fixed = McpWorkspace::Fixed(Some("/srv/ci".to_owned()));
        let request = of("shell.exec.v1", json!({ "command": "ls" }), &fixed).unwrap();
        assert_eq!(request.workspace.unwrap().path, "/srv/ci");
        let named = of("shell.exec.v1", json!({ "command": "ls", "_workspace": "/" }), &fixed);
        assert_eq!(named, Err(InvalidArguments::Fixed));
        let none = of("shell.exec.v1", json!({ "command": "ls", "_workspace": "/" }), &McpWorkspace::Fixed(None));
        assert_eq!(none, Err(InvalidArguments::Fixed));
    }

    #[test]
    fn command_in_named_sandbox_has_no_fixed_workspace() {
        let arguments = json!({ "command": "ls", "_sandbox": "dev" });
        let fixed = McpWorkspace::Fixed(Some("/srv/ci".to_owned()));
        let request = of("shell.exec.v1", arguments, &fixed).unwrap();
        assert_eq!((request.sandbox.as_deref(), request.workspace), (Some("dev"), None));
        let both = json!({ "command": "ls", "_sandbox": "dev", "_workspace": "/" });
        assert!(of("shell.exec.v1", both, &McpWorkspace::Argument).unwrap().workspace.is_some(), "the engine refuses it");
    }

    #[test]
    fn capability_without_workspace_gets_none() {
        let fixed = McpWorkspace::Fixed(Some("/srv/ci".to_owned()));
        assert_eq!(of("http.fetch.v1", json!({ "url": "https://a.example" }), &fixed).unwrap().workspace, None);
    }

    #[test]
    fn reserved_arguments_of_the_wrong_type_are_refused() {
        for (arguments, expected) in [
            (json!({ "_workspace": 1 }), InvalidArguments::Workspace),
            (json!({ "_sandbox": 1 }), InvalidArguments::Sandbox),
            (json!({ "_network": "a.example" }), InvalidArguments::Network),
            (json!({ "_network": [1] }), InvalidArguments::Network),
        ] {
            assert_eq!(of("shell.exec.v1", arguments, &McpWorkspace::Argument), Err(expected));
        }
    }
}
