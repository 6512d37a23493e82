//! The words that policies may use: capabilities with their parameters, and backends.

use crate::{error::PolicyError, parameter::ParameterRecord};
use cedar_policy::Schema;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The entity types of principals.
const PRINCIPALS: [&str; 3] = ["User", "Agent", "Service"];

/// The entity types of resources.
const RESOURCES: [&str; 5] = ["Path", "Host", "Image", "Sandbox", "System"];

/// The words that policies may use. A policy with another capability, parameter or backend is refused when it is loaded.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    capabilities: BTreeMap<String, VocabularyEntry>,
    backends: BTreeSet<String>,
    unisolated: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct VocabularyEntry {
    pub(crate) parameters: ParameterRecord,
    pub(crate) groups: BTreeSet<String>,
}

impl Vocabulary {
    /// Adds a capability: its name, the JSON Schema of its parameters, and its traits, such as `read-only`. The capability
    /// becomes the Cedar action of its name. The action is a member of a group for each trait, and of a group for each prefix of
    /// the name: `fs` and `fs.read` for `fs.read.v1`.
    ///
    /// # Errors
    /// [`PolicyError::Capability`] if the name is not of the form `area.verb.v1`, or a trait is not a word.
    pub fn capability<'a>(
        mut self,
        name: &str,
        parameters: &Value,
        traits: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, PolicyError> {
        let word = |part: &str| {
            let first = part.starts_with(|first: char| first.is_ascii_lowercase());
            first && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
        };
        let Some((prefix, version)) = name.rsplit_once(".v") else { return Err(PolicyError::Capability(name.to_owned())) };
        let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        let traits: Vec<&str> = traits.into_iter().collect();
        let has_words = prefix.split('.').chain(traits.iter().copied()).all(word);
        if !is_version || name.len() > 128 || !has_words || !prefix.contains('.') {
            return Err(PolicyError::Capability(name.to_owned()));
        }
        let ends = prefix.match_indices('.').map(|(end, _)| end).chain([prefix.len()]);
        let groups = ends.map(|end| prefix[..end].to_owned()).chain(traits.into_iter().map(str::to_owned)).collect();
        let parameters = ParameterRecord::from_json_schema(parameters);
        self.capabilities.insert(name.to_owned(), VocabularyEntry { parameters, groups });
        Ok(self)
    }

    /// Adds a backend by its canonical name. A backend without a boundary is permitted only by a policy that names it.
    #[must_use]
    pub fn backend(mut self, name: &str, has_boundary: bool) -> Self {
        if !has_boundary {
            self.unisolated.insert(name.to_owned());
        }
        self.backends.insert(name.to_owned());
        self
    }

    /// Returns the names of the capabilities.
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        self.capabilities.keys().map(String::as_str)
    }

    /// Returns the names of the backends.
    pub fn backends(&self) -> impl Iterator<Item = &str> {
        self.backends.iter().map(String::as_str)
    }

    /// Returns the names of the backends with a boundary.
    pub(crate) fn isolated(&self) -> BTreeSet<String> {
        self.backends.difference(&self.unisolated).cloned().collect()
    }

    pub(crate) fn entry(&self, capability: &str) -> Option<&VocabularyEntry> {
        self.capabilities.get(capability)
    }

    /// Returns the Cedar schema in its JSON form.
    pub fn cedar_schema(&self) -> Value {
        let text = || json!({ "type": "String" });
        let entity = |parents: &[&str], attributes: Value| {
            let shape = json!({ "type": "Record", "attributes": attributes });
            json!({ "memberOfTypes": parents, "shape": shape })
        };
        let port = json!({ "type": "Long" });
        let ip = json!({ "type": "Extension", "name": "ipaddr", "required": false });
        let mut entities = json!({
            "Group": {},
            "System": {},
            "Path": entity(&["Path"], json!({ "path": text(), "write": { "type": "Boolean" } })),
            "Host": entity(&["Host"], json!({ "name": text(), "port": port, "address": ip })),
            "Image": entity(&["Image"], json!({ "repository": text(), "version": text() })),
            "Sandbox": entity(&[], json!({ "name": text(), "owner": text() })),
        });
        for kind in PRINCIPALS {
            let parents: &[&str] = if kind == "Agent" { &["Group", "User"] } else { &["Group"] };
            entities[kind] = entity(parents, json!({ "id": text(), "name": text() }));
        }
        json!({ "": { "entityTypes": entities, "actions": self.cedar_actions() } })
    }

    fn cedar_actions(&self) -> Map<String, Value> {
        let source = json!({ "type": "Record", "attributes": {
            "transport": { "type": "String" },
            "address": { "type": "Extension", "name": "ipaddr", "required": false },
        } });
        let texts = json!({ "type": "Set", "element": { "type": "String" } });
        let secrets = json!({ "type": "Record", "attributes": { "names": texts, "hosts": texts } });
        let groups = self.capabilities.values().flat_map(|entry| &entry.groups);
        let mut actions: Map<String, Value> = groups.map(|group| (group.clone(), json!({}))).collect();
        for (name, entry) in &self.capabilities {
            let context = json!({ "type": "Record", "attributes": {
                "parameters": entry.parameters.cedar_type(),
                "secrets": secrets,
                "time": { "type": "Extension", "name": "datetime" },
                "source": source,
            } });
            let member_of: Vec<_> = entry.groups.iter().map(|group| json!({ "id": group })).collect();
            let applies = json!({ "principalTypes": PRINCIPALS, "resourceTypes": RESOURCES, "context": context });
            actions.insert(name.clone(), json!({ "memberOf": member_of, "appliesTo": applies }));
        }
        actions
    }

    /// Returns the compiled schema.
    pub(crate) fn compile(&self) -> Result<Schema, PolicyError> {
        Schema::from_json_value(self.cedar_schema()).map_err(|error| PolicyError::Schema(error.to_string()))
    }
}
