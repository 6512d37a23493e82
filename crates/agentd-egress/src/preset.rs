//! Presets: named lists of grants for common tools, and what agent CLIs need in addition.
//!
//! Each preset is a file of `presets/`, which is compiled into the program. Presets grant public services only. A site with its
//! own mirror writes a file of network grants instead (see [`crate::grant::GrantFile`]).

use crate::{
    grant::{GrantError, NetGrants},
    inspect::target::SecretTarget,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A named list of grants, and of secrets for the granted hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// The name on the command line and in files of network grants.
    pub name: &'static str,
    /// What the preset is for, in one line without a final stop.
    pub description: String,
    /// The grants.
    pub allow: NetGrants,
    /// The credentials of an agent CLI. A run uses each credential whose value is set, and needs at least one.
    pub secrets: Vec<PresetSecret>,
    /// Variables that switch off features for which the tool needs hosts that the preset does not grant.
    pub env: BTreeMap<String, String>,
}

/// A credential of an agent CLI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresetSecret {
    /// The destination of the secret. Its host is granted if the secret is used.
    pub target: SecretTarget,
    /// The text form of the target.
    pub text: String,
    /// The beginning of the placeholder, which the tool may check.
    pub prefix: String,
    /// The variables of the caller that may contain the value. The first variable that is set is used.
    pub from: Vec<String>,
}

/// The reason why a preset is not available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PresetError {
    /// No preset has this name.
    #[error("network preset {name:?}: unknown preset — use one of {}", names().join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// The file of the preset is damaged. The tests read every file, so a build that passed them has none.
    #[error("network preset {name:?}: {reason} — report this as a bug of agentd")]
    Damaged {
        /// The name.
        name: &'static str,
        /// The message of the parser.
        reason: String,
    },
    /// A grant of the preset is not valid.
    #[error("network preset {name:?}: {source}")]
    Grant {
        /// The name.
        name: &'static str,
        /// The cause.
        #[source]
        source: GrantError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresetFile {
    description: String,
    allow: Vec<String>,
    #[serde(default)]
    secrets: Vec<SecretEntry>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretEntry {
    target: String,
    prefix: String,
    from: Vec<String>,
}

/// The name and the text of each preset, sorted by name.
const PRESETS: [(&str, &str); 11] = [
    ("claude-code", include_str!("../presets/claude-code.toml")),
    ("codex", include_str!("../presets/codex.toml")),
    ("debian", include_str!("../presets/debian.toml")),
    ("gemini-cli", include_str!("../presets/gemini-cli.toml")),
    ("git-github", include_str!("../presets/git-github.toml")),
    ("git-gitlab", include_str!("../presets/git-gitlab.toml")),
    ("go", include_str!("../presets/go.toml")),
    ("node", include_str!("../presets/node.toml")),
    ("opencode", include_str!("../presets/opencode.toml")),
    ("python", include_str!("../presets/python.toml")),
    ("rust", include_str!("../presets/rust.toml")),
];

/// Returns the names of all presets, sorted.
pub fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|(name, _)| *name).collect()
}

impl Preset {
    /// Returns the preset of this name.
    ///
    /// # Errors
    /// No preset has this name.
    pub fn find(name: &str) -> Result<Self, PresetError> {
        let found = PRESETS.iter().find(|(known, _)| *known == name);
        let (name, text) = *found.ok_or_else(|| PresetError::Unknown { name: name.to_owned() })?;
        let file: PresetFile =
            toml::from_str(text).map_err(|error| PresetError::Damaged { name, reason: error.message().to_owned() })?;
        let allow = file.allow.iter().map(|item| item.parse()).collect::<Result<_, _>>();
        let allow = allow.map_err(|source| PresetError::Grant { name, source })?;
        let secrets = file.secrets.into_iter().map(|SecretEntry { target: text, prefix, from }| {
            let target = text.parse::<SecretTarget>();
            let target = target.map_err(|error| PresetError::Damaged { name, reason: error.to_string() })?;
            Ok::<_, PresetError>(PresetSecret { target, text, prefix, from })
        });
        Ok(Self { name, description: file.description, allow, secrets: secrets.collect::<Result<_, _>>()?, env: file.env })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::secret::Placeholder;

    #[test]
    fn every_preset_is_valid_and_needs_no_inspection() {
        let names = names();
        assert!(names.is_sorted());
        for name in names {
            let preset = Preset::find(name).unwrap();
            assert!(preset.allow.iter().next().is_some(), "{name}");
            assert_eq!(preset.allow.need_inspection(), None, "{name}");
            assert!(!preset.description.is_empty() && !preset.description.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn secrets_of_presets_have_a_source_and_a_plain_prefix() {
        let presets = names().into_iter().map(|name| Preset::find(name).unwrap());
        let secrets: Vec<_> = presets.flat_map(|preset| preset.secrets).collect();
        assert!(secrets.len() >= 4);
        for secret in secrets {
            assert!(!secret.from.is_empty(), "{secret:?}");
            let placeholder = Placeholder::random(&secret.prefix).unwrap().to_string();
            assert!(!secret.prefix.is_empty() && placeholder.starts_with(&secret.prefix), "{secret:?}");
        }
    }

    #[test]
    fn every_file_of_presets_is_compiled_in() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/presets")).unwrap();
        let mut found: Vec<String> =
            files.map(|file| file.unwrap().file_name().to_str().unwrap().trim_end_matches(".toml").to_owned()).collect();
        found.sort();
        assert_eq!(found, names());
    }

    #[test]
    fn unknown_preset_names_those_that_exist() {
        let error = Preset::find("pyton").unwrap_err().to_string();
        assert!(error.contains("\"pyton\"") && error.contains("python, rust"), "{error}");
    }
}
