//! All capabilities: those that agentd contains, and those of the operator's manifests.

use super::{
    manifest::{Capability, ManifestError},
    sandbox::SANDBOX_CAPABILITIES,
};
use agentd_tool::capability::CAPABILITIES;
use std::collections::BTreeMap;

/// The longest manifest in bytes.
pub const MAX_MANIFEST: usize = 256 << 10;

/// The manifests that agentd contains.
const BUILT_IN: [(&str, &str); 2] = [
    ("shell.exec.v1.toml", include_str!("../../capabilities/shell.exec.v1.toml")),
    ("code.run.v1.toml", include_str!("../../capabilities/code.run.v1.toml")),
];

/// All capabilities, by name with version.
#[derive(Debug, Default)]
pub struct CapabilityRegistry(BTreeMap<String, Capability>);

/// The reason why the capabilities cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A manifest is refused.
    #[error("capability manifest {file}: {source} — correct the file, or remove it")]
    Manifest {
        /// The file.
        file: String,
        /// The cause.
        source: ManifestError,
    },
    /// A manifest is too long.
    #[error("capability manifest {0}: longer than 256 KiB — shorten it")]
    TooLong(String),
    /// Two manifests have the same name and version.
    #[error("capability manifest {file}: {name} exists already — choose another name or version")]
    Twice {
        /// The file.
        file: String,
        /// The name with the version.
        name: String,
    },
}

/// There is no capability with this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("capability {0:?} does not exist — `agentd capability ls` lists the capabilities")]
pub struct UnknownCapability(pub String);

impl CapabilityRegistry {
    /// Returns the capabilities that agentd contains.
    ///
    /// # Errors
    /// None: the tests of this crate read all of them.
    pub fn built_in() -> Result<Self, RegistryError> {
        let mut registry = Self::default();
        for tool in &CAPABILITIES {
            let file = tool.name.to_owned();
            let capability =
                Capability::try_from(tool).map_err(|source| RegistryError::Manifest { file: file.clone(), source })?;
            registry.insert(file, capability)?;
        }
        for sandbox in &SANDBOX_CAPABILITIES {
            let file = "of named sandboxes".to_owned();
            let capability =
                Capability::try_from(sandbox).map_err(|source| RegistryError::Manifest { file: file.clone(), source })?;
            registry.insert(file, capability)?;
        }
        registry.with(BUILT_IN)
    }

    /// Adds the capabilities of manifests: the name of each file, for messages, and its text.
    ///
    /// # Errors
    /// [`RegistryError`] about the first manifest that is refused. A manifest cannot replace a capability.
    pub fn with<N: Into<String>, T: AsRef<str>>(
        mut self,
        files: impl IntoIterator<Item = (N, T)>,
    ) -> Result<Self, RegistryError> {
        for (file, text) in files {
            let (file, text) = (file.into(), text.as_ref());
            if text.len() > MAX_MANIFEST {
                return Err(RegistryError::TooLong(file));
            }
            let capability = Capability::parse(text).map_err(|source| RegistryError::Manifest { file: file.clone(), source })?;
            self.insert(file, capability)?;
        }
        Ok(self)
    }

    fn insert(&mut self, file: String, capability: Capability) -> Result<(), RegistryError> {
        let name = capability.id();
        if self.0.contains_key(&name) {
            return Err(RegistryError::Twice { file, name });
        }
        self.0.insert(name, capability);
        Ok(())
    }

    /// Returns a capability by its name with version.
    ///
    /// # Errors
    /// [`UnknownCapability`].
    pub fn find(&self, name: &str) -> Result<&Capability, UnknownCapability> {
        self.0.get(name).ok_or_else(|| UnknownCapability(name.chars().take(128).collect()))
    }

    /// Returns the capabilities in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Capability> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Run;
    use serde_json::json;

    #[test]
    fn built_in_manifests_are_those_of_their_file_names() {
        let registry = CapabilityRegistry::built_in().unwrap();
        for (file, _) in BUILT_IN {
            assert!(registry.find(file.strip_suffix(".toml").unwrap()).is_ok(), "{file}");
        }
        assert_eq!(registry.iter().count(), BUILT_IN.len() + CAPABILITIES.len() + SANDBOX_CAPABILITIES.len());
        assert!(registry.find("shell.exec").unwrap_err().to_string().contains("agentd capability ls"));
    }

    #[test]
    fn manifest_cannot_replace_a_capability() {
        let twice = CapabilityRegistry::built_in().unwrap().with(BUILT_IN);
        assert!(matches!(twice, Err(RegistryError::Twice { name, .. }) if name == "shell.exec.v1"));
        let long = " ".repeat(MAX_MANIFEST + 1);
        assert!(matches!(CapabilityRegistry::default().with([("a", &long)]), Err(RegistryError::TooLong(_))));
    }

    #[test]
    fn built_in_commands_pass_sources_and_arguments_exactly() {
        let registry = CapabilityRegistry::built_in().unwrap();
        for (name, parameters, argv, stdin) in [
            ("shell.exec.v1", json!({ "command": "-x; y" }), vec!["/bin/sh", "-c", "--", "-x; y"], ""),
            ("shell.exec.v1", json!({ "argv": ["ls", "-l"], "stdin": "in" }), vec!["ls", "-l"], "in"),
            ("code.run.v1", json!({ "language": "python", "source": "a", "args": ["-b"] }), vec!["python3", "-", "-b"], "a"),
            ("code.run.v1", json!({ "language": "bash", "source": "a", "args": ["-b"] }), vec!["bash", "-s", "--", "-b"], "a"),
        ] {
            let capability = registry.find(name).unwrap();
            capability.parameters.validate(&parameters).unwrap();
            let Run::Command(template) = &capability.run else { panic!("{name}") };
            let command = template.fill(parameters.as_object().unwrap()).unwrap();
            assert_eq!((command.argv, &command.stdin[..]), (argv.into_iter().map(str::to_owned).collect(), stdin.as_bytes()));
        }
        let shell = &registry.find("shell.exec.v1").unwrap().parameters;
        for parameters in [
            json!({}),
            json!({ "command": "a", "argv": ["b"] }),
            json!({ "argv": [] }),
            json!({ "command": "a", "stdin": "", "stdin_base64": "" }),
            json!({ "command": "a", "env": { "A=": "" } }),
            json!({ "command": "a", "timeout_ms": 0 }),
        ] {
            assert!(shell.validate(&parameters).is_err(), "{parameters}");
        }
    }
}
