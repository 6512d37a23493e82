//! Intents: requests to use a capability, and their digests.

use crate::capability::WorkspaceAccess;
use agentd_policy::{PolicyPrincipal, RequestSource, RequestedConfinement};
use agentd_records::{
    ContentDigest, Timestamp,
    json::{self, JsonError},
};
use agentd_state::IdempotencyKey;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The version of the document that is digested.
const VERSION: u64 = 3;

/// One request to use a capability. There is no debug form, because parameters may be secrets.
pub struct Intent {
    /// The principal that requests. The transport states the principal.
    pub principal: PolicyPrincipal,
    /// How the request was received.
    pub source: RequestSource,
    /// The name of the capability, with its version.
    pub capability: String,
    /// The capabilities to which the credential of the caller is restricted; `None` for no restriction. Policies still decide.
    pub scope: Option<BTreeSet<String>>,
    /// The parameters.
    pub parameters: Map<String, Value>,
    /// The confinement that the caller requests. It may only be stricter than what capability and policies permit.
    pub confinement: RequestedConfinement,
    /// The destinations of the secrets that the caller gives, as in [`agentd_core::NetworkSecret::target`]. The values are no
    /// part of an intent.
    pub secrets: Vec<String>,
    /// The directory that the sandbox shows, if the capability has a workspace.
    pub workspace: Option<RequestedWorkspace>,
    /// The named sandbox of the principal in which the command runs; `None` for a new sandbox.
    pub sandbox: Option<String>,
    /// The key by which the caller repeats the request.
    pub key: Option<IdempotencyKey>,
    /// When the request was received.
    pub received: Timestamp,
}

/// A directory that the caller names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedWorkspace {
    /// The absolute path without links, `.` and `..`.
    pub path: String,
    /// The most access that the caller wants the capability to have.
    pub access: WorkspaceAccess,
}

impl Intent {
    /// Returns the digest of the whole intent: equal requests have equal digests. The idempotency key is not a part of it.
    ///
    /// # Errors
    /// None: every value was parsed from JSON, or has a JSON form.
    pub fn digest(&self) -> Result<ContentDigest, JsonError> {
        Ok(ContentDigest::of(self.document(None)?.as_bytes()))
    }

    /// Returns the document whose digest records contain. It names the parameters by their digest only. The nonce is random, so
    /// that nobody can guess parameters from the digest of the document.
    ///
    /// # Errors
    /// As for [`Intent::digest`].
    pub fn document(&self, nonce: Option<&str>) -> Result<String, JsonError> {
        let parameters = json::canonical_of_any(&Value::Object(self.parameters.clone()))?;
        let RequestedConfinement { profile, limits, network, backend } = &self.confinement;
        let workspace = self.workspace.as_ref().map(|workspace| json!({ "path": workspace.path, "access": workspace.access }));
        let mut document = json!({
            "v": VERSION,
            "principal": self.principal.id(),
            "source": self.source,
            "capability": self.capability,
            "parameters": ContentDigest::of(parameters.as_bytes()),
            "confinement": { "profile": profile, "limits": limits, "network": network, "backend": backend },
            "secrets": self.secrets,
            "workspace": workspace,
            "sandbox": self.sandbox,
        });
        if let Some(nonce) = nonce {
            document["nonce"] = nonce.into();
        }
        json::canonical_of_any(&document)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use agentd_policy::PrincipalKind;

    pub(crate) fn intent(capability: &str, parameters: Value) -> Intent {
        Intent {
            principal: PolicyPrincipal {
                kind: PrincipalKind::User,
                name: "uid:7".to_owned(),
                groups: Vec::new(),
                acts_for: None,
            },
            source: RequestSource { transport: "command-line".to_owned(), address: None },
            capability: capability.to_owned(),
            scope: None,
            parameters: parameters.as_object().unwrap().clone(),
            confinement: RequestedConfinement::default(),
            secrets: Vec::new(),
            workspace: None,
            sandbox: None,
            key: None,
            received: Timestamp::now(),
        }
    }

    #[test]
    fn digest_depends_on_every_part_except_key_and_time() {
        let digest = |change: fn(&mut Intent)| {
            let mut intent = intent("shell.exec.v1", json!({ "command": "a", "env": { "A": "1", "B": "2" } }));
            change(&mut intent);
            intent.digest().unwrap()
        };
        let first = digest(|_| {});
        let reordered = |intent: &mut Intent| {
            let env = json!({ "B": "2", "A": "1" });
            intent.parameters = [("env".to_owned(), env), ("command".to_owned(), "a".into())].into_iter().collect();
        };
        assert_eq!(digest(reordered), first);
        assert_eq!(digest(|intent| intent.key = "k".parse().ok()), first);
        assert_eq!(digest(|intent| intent.received = Timestamp::now().plus_seconds(60)), first);
        let changes: [fn(&mut Intent); 9] = [
            |intent| intent.secrets.push("TOKEN@a.example".to_owned()),
            |intent| intent.principal.name = "uid:8".to_owned(),
            |intent| intent.source.transport = "rest".to_owned(),
            |intent| intent.capability = "code.run.v1".to_owned(),
            |intent| drop(intent.parameters.insert("command".to_owned(), "b".into())),
            |intent| intent.confinement.backend = Some("container".to_owned()),
            |intent| intent.confinement.limits.wall = Some(std::time::Duration::from_secs(1)),
            |intent| intent.sandbox = Some("a".to_owned()),
            |intent| intent.workspace = Some(RequestedWorkspace { path: "/a".to_owned(), access: WorkspaceAccess::ReadOnly }),
        ];
        let mut all: Vec<_> = changes.map(digest).into_iter().chain([first]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn document_contains_no_parameter_and_depends_on_the_nonce() {
        let intent = intent("shell.exec.v1", json!({ "command": "canary" }));
        let document = intent.document(Some("1")).unwrap();
        assert!(!document.contains("canary") && document.contains("\"nonce\":\"1\""), "{document}");
        assert_ne!(document, intent.document(Some("2")).unwrap());
    }
}
