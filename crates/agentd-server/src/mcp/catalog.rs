//! The tools: one for each capability, and those that read kept outputs and continue calls that wait.

use super::{
    arguments::{NETWORK, SANDBOX, WORKSPACE},
    own_tools::{self, OwnTool},
    schemas,
};
use agentd_engine::{Capability, CapabilityRegistry, Run, WorkspaceAccess};
use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The longest name of a tool that the protocol allows.
const MAX_NAME: usize = 128;

/// The directory of the host that sandboxes show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum McpWorkspace {
    /// Every call has this directory, or none. Calls cannot name another one. The configuration of the service must list it.
    Fixed(Option<String>),
    /// Each call names its directory in the argument `_workspace`. The configuration of the daemon must list the directory, also
    /// for the user who runs the daemon, because a model writes the argument.
    Argument,
}

/// The tools by name.
#[derive(Debug)]
pub(super) struct Catalog(BTreeMap<String, CatalogEntry>);

#[derive(Debug)]
pub(super) struct CatalogEntry {
    pub tool: Tool,
    pub action: ToolAction,
}

/// What a tool does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToolAction {
    /// Uses the capability with this name.
    Capability(String),
    /// Reads an output or continues a call.
    Own(OwnTool),
}

impl Catalog {
    /// Returns the tools for these capabilities. A capability whose name is too long for a tool is left out.
    pub fn new(capabilities: &CapabilityRegistry, workspace: &McpWorkspace) -> Self {
        let mut tools: BTreeMap<_, _> = own_tools::all().into_iter().collect();
        for capability in capabilities.iter() {
            let name = name_of(&capability.id());
            if name.len() > MAX_NAME {
                tracing::warn!(capability = capability.id(), "the name is too long for a tool of MCP");
                continue;
            }
            let tool = tool(name.clone(), capability, workspace);
            tools.insert(name, CatalogEntry { tool, action: ToolAction::Capability(capability.id()) });
        }
        Self(tools)
    }

    /// Returns the tools in the order of their names: those of permitted capabilities, and agentd's own. `None` permits all.
    pub fn tools(&self, permitted: Option<&BTreeSet<String>>) -> Vec<Tool> {
        let is_permitted = |entry: &&CatalogEntry| match &entry.action {
            ToolAction::Capability(capability) => permitted.is_none_or(|permitted| permitted.contains(capability)),
            ToolAction::Own(_) => true,
        };
        self.0.values().filter(is_permitted).map(|entry| entry.tool.clone()).collect()
    }

    /// Returns a tool.
    pub fn find(&self, name: &str) -> Option<&CatalogEntry> {
        self.0.get(name)
    }
}

/// Returns the name of the tool of a capability. Models' interfaces accept no dots. Two capabilities have different names: the
/// words of their names contain no underscore.
fn name_of(capability: &str) -> String {
    capability.replace('.', "_")
}

fn tool(name: String, capability: &Capability, workspace: &McpWorkspace) -> Tool {
    let shows_workspace = capability.bounds.workspace > WorkspaceAccess::None;
    let mut reserved: Vec<(&str, Value)> = Vec::new();
    if shows_workspace && *workspace == McpWorkspace::Argument {
        let description = "The absolute path of the directory of the daemon's host that the sandbox shows as workspace. Without \
                           it, the sandbox shows no directory of the host.";
        reserved.push((WORKSPACE, json!({ "type": "string", "description": description, "maxLength": 4095 })));
    }
    if capability.bounds.network.hosts().is_none() {
        let description = "Hosts that the sandbox may reach, such as `pypi.org` or `api.example.com:443/GET:/v1/*`; none by \
                           default. Policies decide.";
        let items = json!({ "type": "string", "maxLength": 2048 });
        reserved.push((NETWORK, json!({ "type": "array", "description": description, "items": items, "maxItems": 64 })));
    }
    if matches!(capability.run, Run::Command(_)) {
        let description = "The name of a sandbox (`sandbox_create_v1`, `sandbox_list_v1`) in which the command runs, with the \
                           sandbox's own workspace, hosts and limits. Without it, the command runs in a new sandbox, which is \
                           removed afterwards.";
        reserved.push((SANDBOX, json!({ "type": "string", "description": description, "maxLength": 64 })));
    }
    let input = schemas::input(capability, &reserved);
    let annotations = &capability.annotations;
    let description = [vec![capability.description.trim().to_owned()], input.rules].concat().join(" ");
    Tool::new(name, description, input.schema).with_raw_output_schema(schemas::output(capability).into()).with_annotations(
        ToolAnnotations::new()
            .read_only(annotations.read_only)
            .destructive(annotations.destructive)
            .idempotent(annotations.idempotent)
            .open_world(annotations.open_world),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_in_a_stable_order_with_valid_names_and_annotations() {
        let capabilities = CapabilityRegistry::built_in().unwrap();
        let catalog = Catalog::new(&capabilities, &McpWorkspace::Argument);
        let tools = catalog.tools(None);
        assert_eq!(tools, Catalog::new(&capabilities, &McpWorkspace::Argument).tools(None));
        let names: Vec<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
        assert!(names.is_sorted() && names.contains(&"shell_exec_v1") && names.contains(&"output_read"), "{names:?}");
        let valid = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        assert!(names.iter().all(|name| valid(name) && name.len() <= 64), "{names:?}");
        let read = &catalog.find("fs_read_v1").unwrap().tool;
        let hints = read.annotations.as_ref().unwrap();
        assert_eq!((hints.read_only_hint, hints.destructive_hint, hints.open_world_hint), (Some(true), Some(false), Some(false)));
    }

    #[test]
    fn fixed_workspace_leaves_no_argument_for_another_one() {
        let capabilities = CapabilityRegistry::built_in().unwrap();
        let has_argument = |workspace: &McpWorkspace| {
            let catalog = Catalog::new(&capabilities, workspace);
            catalog.find("shell_exec_v1").unwrap().tool.input_schema["properties"].get(WORKSPACE).is_some()
        };
        assert!(has_argument(&McpWorkspace::Argument));
        assert!(!has_argument(&McpWorkspace::Fixed(Some("/srv/ci".to_owned()))) && !has_argument(&McpWorkspace::Fixed(None)));
    }
}
