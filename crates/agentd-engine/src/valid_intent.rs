//! Validation: the first step of admission.

use crate::{
    capability::{Capability, CapabilityRegistry, CommandLine, Run, SandboxCall, SessionCall, WorkspaceAccess},
    destinations::Destinations,
    intent::Intent,
    refusal::Refusal,
    requested_secret::requested_secrets,
};
use agentd_core::Limits;
use agentd_policy::{PolicyRequest, RequestedConfinement, RequestedSecret, Resource};
use agentd_tool::capability::CapabilityCall;
use serde_json::Value;
use std::time::Duration;

/// An intent whose parameters match the schema of its capability.
pub struct ValidIntent<'e> {
    /// The intent.
    pub intent: Intent,
    /// The capability.
    pub capability: &'e Capability,
    /// The operation to execute.
    pub operation: Operation,
    /// The hosts that the operation reaches by its parameters, if it reaches any.
    pub(crate) destinations: Option<Destinations>,
    /// The secrets, as policies see them.
    secrets: Vec<RequestedSecret>,
}

/// The operation to execute in a sandbox.
pub enum Operation {
    /// A command.
    Command(CommandLine),
    /// An operation of agentd's own program.
    Tool(Box<CapabilityCall>),
    /// A cell of code in an interpreter session.
    Cell(SessionCall),
    /// An operation on named sandboxes.
    Sandbox(SandboxCall),
}

impl Operation {
    /// Returns the time limit that the parameters request.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Command(command) => command.timeout,
            Self::Cell(cell) => cell.timeout,
            Self::Tool(_) | Self::Sandbox(_) => None,
        }
    }

    /// Returns the named sandbox on which the operation works.
    fn sandbox(&self) -> Option<&str> {
        match self {
            Self::Sandbox(call) => call.sandbox(),
            _ => None,
        }
    }
}

impl<'e> ValidIntent<'e> {
    /// Compares an intent with its capability. The intent comes back with the refusal, because refusals are recorded too.
    ///
    /// # Errors
    /// The intent, and [`Refusal::UnknownCapability`], [`Refusal::OutsideScope`], [`Refusal::Parameters`],
    /// [`Refusal::Argument`], [`Refusal::Tool`], [`Refusal::NoWorkspace`], [`Refusal::NotInSandbox`], [`Refusal::OfSandbox`],
    /// [`Refusal::Destination`] or [`Refusal::Secret`].
    pub fn new(mut intent: Intent, registry: &'e CapabilityRegistry) -> Result<Self, Box<(Intent, Refusal)>> {
        let secrets = match requested_secrets(&intent.secrets) {
            Ok(secrets) => secrets,
            Err(error) => return Err(Box::new((intent, error.into()))),
        };
        match check(&mut intent, registry) {
            Ok((capability, operation, destinations)) => Ok(Self { intent, capability, operation, destinations, secrets }),
            Err(refusal) => Err(Box::new((intent, refusal))),
        }
    }

    /// Returns the access of the sandbox to the workspace: what capability and caller both want.
    pub fn workspace_access(&self) -> WorkspaceAccess {
        let requested = self.intent.workspace.as_ref().map_or(WorkspaceAccess::None, |workspace| workspace.access);
        requested.min(self.capability.bounds.workspace)
    }

    /// Returns the request as policies see it.
    pub fn policy_request(&self) -> PolicyRequest {
        let Intent { principal, source, capability, parameters, workspace, received, .. } = &self.intent;
        let access = self.workspace_access();
        let shown = workspace.iter().filter(|_| access > WorkspaceAccess::None);
        let hosts = self.destinations.iter().flat_map(|destinations| &destinations.hosts);
        let path = |path: &str| Resource::Path { path: path.to_owned(), write: access == WorkspaceAccess::ReadWrite };
        // A principal names only its own sandboxes.
        let sandbox = self.operation.sandbox().or(self.intent.sandbox.as_deref());
        let sandbox = sandbox.map(|name| Resource::Sandbox { name: name.to_owned(), owner: principal.id() });
        PolicyRequest {
            principal: principal.clone(),
            capability: capability.clone(),
            resources: shown.map(|workspace| path(&workspace.path)).chain(hosts.cloned()).chain(sandbox).collect(),
            parameters: parameters.clone(),
            secrets: self.secrets.clone(),
            time: *received,
            source: source.clone(),
        }
    }
}

/// The capability of an intent, its operation, and the hosts that the operation reaches.
type Checked<'e> = (&'e Capability, Operation, Option<Destinations>);

fn check<'e>(intent: &mut Intent, registry: &'e CapabilityRegistry) -> Result<Checked<'e>, Refusal> {
    let capability = registry.find(&intent.capability)?;
    if intent.scope.as_ref().is_some_and(|scope| !scope.contains(&intent.capability)) {
        return Err(Refusal::OutsideScope(intent.capability.clone()));
    }
    // The validator takes a value. The parameters are moved and not copied, because they may be large.
    let parameters = Value::Object(std::mem::take(&mut intent.parameters));
    let validated = capability.parameters.validate(&parameters);
    if let Value::Object(parameters) = parameters {
        intent.parameters = parameters;
    }
    validated?;
    let operation = match &capability.run {
        Run::Command(template) => match template.session(&intent.parameters)? {
            Some(cell) => Operation::Cell(cell),
            None => Operation::Command(template.fill(&intent.parameters)?),
        },
        Run::Tool(tool) => Operation::Tool(Box::new(tool.call(Value::Object(intent.parameters.clone()))?)),
        Run::Sandbox(sandbox) => Operation::Sandbox(sandbox.call(&intent.parameters).map_err(Refusal::OfSandbox)?),
    };
    if intent.sandbox.is_some() {
        in_sandbox(intent, &operation)?;
    }
    let url = match &operation {
        Operation::Command(_) | Operation::Cell(_) | Operation::Sandbox(_) => None,
        Operation::Tool(call) => call.url(),
    };
    let stays_in_workspace = matches!(&operation, Operation::Tool(call) if call.stays_in_workspace());
    let without = intent.workspace.as_ref().is_none_or(|workspace| workspace.access == WorkspaceAccess::None);
    if stays_in_workspace && without {
        return Err(Refusal::NoWorkspace);
    }
    let destinations = url.map(|url| Destinations::of(url, intent.confinement.network.as_ref())).transpose()?;
    Ok((capability, operation, destinations))
}

/// Checks an intent that names a sandbox: its operation is a command, and it requests no other confinement than limits of the
/// command.
fn in_sandbox(intent: &Intent, operation: &Operation) -> Result<(), Refusal> {
    if !matches!(operation, Operation::Command(_)) {
        return Err(Refusal::NotInSandbox(intent.capability.clone()));
    }
    let RequestedConfinement { profile, limits, network, backend } = &intent.confinement;
    let of_command = Limits { wall: limits.wall, grace: limits.grace, output: limits.output, ..Limits::default() };
    let checks = [
        ("workspace", intent.workspace.is_none()),
        ("profile", profile.is_none()),
        ("network", network.is_none()),
        ("backend", backend.is_none()),
        ("secrets", intent.secrets.is_empty()),
        ("limits", *limits == of_command),
    ];
    match checks.into_iter().find(|(_, is_left_out)| !is_left_out) {
        None => Ok(()),
        Some((what, _)) => Err(Refusal::OfSandbox(format!(
            "{what}: a command in a named sandbox has that of the sandbox — leave it out; of the limits, only those of time and \
             output may be stated"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{RequestedWorkspace, tests::intent};
    use serde_json::json;

    fn refusal(capability: &str, parameters: Value) -> Refusal {
        let registry = CapabilityRegistry::built_in().unwrap();
        let kept = parameters.clone();
        let (intent, refusal) = *ValidIntent::new(intent(capability, parameters), &registry).err().unwrap();
        assert_eq!(Value::Object(intent.parameters), kept, "the intent is unchanged");
        refusal
    }

    #[test]
    fn intent_that_does_not_match_its_capability_is_refused() {
        assert!(matches!(refusal("shell.exec.v2", json!({})), Refusal::UnknownCapability(_)));
        let Refusal::Parameters(violations) = refusal("shell.exec.v1", json!({ "command": 1, "argv": [1], "x": 1 })) else {
            panic!("the parameters are invalid")
        };
        let pointers: Vec<_> = violations.list.iter().map(|violation| violation.pointer.as_str()).collect();
        assert!(["/command", "/argv/0", ""].iter().all(|pointer| pointers.contains(pointer)), "{violations}");
        assert!(matches!(refusal("shell.exec.v1", json!({ "command": "a\u{0}" })), Refusal::Argument(_)));
        assert!(matches!(refusal("shell.exec.v1", json!({ "command": "a", "stdin_base64": "?" })), Refusal::Argument(_)));
    }

    #[test]
    fn restricted_credential_permits_its_capabilities_only() {
        let registry = CapabilityRegistry::built_in().unwrap();
        let scope = Some(["fs.read.v1".to_owned()].into());
        let restricted = |capability: &str| {
            let asked = Intent { scope: scope.clone(), ..intent(capability, json!({ "command": "a" })) };
            ValidIntent::new(asked, &registry).err().unwrap().1
        };
        assert_eq!(restricted("shell.exec.v1").word(), "outside-scope");
        assert_eq!(restricted("fs.read.v1").word(), "invalid-parameters");
        assert_eq!(restricted("shell.exec.v2").word(), "unknown-capability");
    }

    #[test]
    fn hosts_of_the_url_and_of_the_grants_are_resources() {
        let registry = CapabilityRegistry::built_in().unwrap();
        let host = |name: &str| Resource::Host { name: name.to_owned(), port: 443 };
        let workspace = Some(RequestedWorkspace { path: "/srv/ci".to_owned(), access: WorkspaceAccess::ReadWrite });
        let resources = |capability, parameters, grants: &[&str]| {
            let mut asked = Intent { workspace: workspace.clone(), ..intent(capability, parameters) };
            let named = grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>();
            asked.confinement.network = (!named.is_empty()).then_some(agentd_core::Network::Egress(named));
            ValidIntent::new(asked, &registry).ok().unwrap().policy_request().resources
        };
        let fetch = json!({ "url": "https://a.example/" });
        assert_eq!(resources("http.fetch.v1", fetch.clone(), &[]), [host("a.example")], "it has no workspace");
        assert_eq!(resources("http.fetch.v1", fetch, &["a.example", "b.example"]), [host("a.example"), host("b.example")]);
        let clone = json!({ "url": "https://a.example/r", "to": "r" });
        let path = Resource::Path { path: "/srv/ci".to_owned(), write: true };
        assert_eq!(resources("git.clone.v1", clone, &[]), [path, host("a.example")]);
        assert!(matches!(refusal("http.fetch.v1", json!({ "url": "ftp://a.example" })), Refusal::Destination(_)));
        assert!(matches!(refusal("git.clone.v1", json!({ "url": "ext::sh", "to": "r" })), Refusal::Parameters(_)));
        assert!(matches!(refusal("git.clone.v1", json!({ "url": "https://a.example", "to": "r" })), Refusal::NoWorkspace));
        assert!(matches!(refusal("fs.watch.v1", json!({ "path": "." })), Refusal::NoWorkspace));
    }

    #[test]
    fn named_sandbox_is_a_resource_of_its_principal_and_keeps_its_own_confinement() {
        let registry = CapabilityRegistry::built_in().unwrap();
        let sandbox = |name: &str| Resource::Sandbox { name: name.to_owned(), owner: "user:uid:7".to_owned() };
        let valid = |capability, parameters, change: fn(&mut Intent)| {
            let mut asked = intent(capability, parameters);
            change(&mut asked);
            ValidIntent::new(asked, &registry).map_err(|refused| refused.1)
        };
        let created = valid("sandbox.create.v1", json!({ "sandbox": "dev" }), |_| {}).ok().unwrap();
        assert_eq!(created.policy_request().resources, [sandbox("dev")]);
        let (shell, named) = (json!({ "command": "a" }), |intent: &mut Intent| intent.sandbox = Some("dev".to_owned()));
        let used = valid("shell.exec.v1", shell.clone(), named).ok().unwrap();
        assert_eq!(used.policy_request().resources, [sandbox("dev")]);
        let listed = valid("sandbox.list.v1", json!({}), |_| {}).ok().unwrap();
        assert_eq!(listed.policy_request().resources, []);
        let wider: [fn(&mut Intent); 5] = [
            |intent| intent.confinement.profile = Some(agentd_core::Profile::Permissive),
            |intent| intent.confinement.network = Some(agentd_core::Network::Host),
            |intent| intent.confinement.backend = Some("host-direct".to_owned()),
            |intent| intent.confinement.limits.memory = Some(agentd_core::Bytes(1 << 40)),
            |intent| intent.workspace = Some(RequestedWorkspace { path: "/".to_owned(), access: WorkspaceAccess::ReadWrite }),
        ];
        for change in wider {
            let mut asked = intent("shell.exec.v1", shell.clone());
            named(&mut asked);
            change(&mut asked);
            let refused = ValidIntent::new(asked, &registry).err().unwrap().1;
            assert!(matches!(refused, Refusal::OfSandbox(_)) && refused.word() == "invalid-parameters", "{refused}");
        }
        let read = valid("sandbox.get.v1", json!({ "sandbox": "other" }), named).err().unwrap();
        assert!(matches!(read, Refusal::NotInSandbox(_)), "{read}");
    }

    #[test]
    fn workspace_is_at_most_what_capability_and_caller_want() {
        let registry = CapabilityRegistry::built_in().unwrap();
        for (capability, parameters, access, shown) in [
            ("shell.exec.v1", json!({ "command": "a" }), WorkspaceAccess::ReadWrite, Some(true)),
            ("shell.exec.v1", json!({ "command": "a" }), WorkspaceAccess::ReadOnly, Some(false)),
            ("shell.exec.v1", json!({ "command": "a" }), WorkspaceAccess::None, None),
            ("fs.read.v1", json!({ "path": "a" }), WorkspaceAccess::ReadWrite, Some(false)),
        ] {
            let workspace = Some(RequestedWorkspace { path: "/srv/ci".to_owned(), access });
            let valid = ValidIntent::new(Intent { workspace, ..intent(capability, parameters) }, &registry).ok().unwrap();
            let expected = shown.map(|write| Resource::Path { path: "/srv/ci".to_owned(), write });
            assert_eq!(valid.policy_request().resources, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
