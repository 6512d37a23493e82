//! Presets: named lists of grants for common tools.
//!
//! Each preset is a file of `presets/`, which is compiled into the program. Presets grant public services only. A site with a
//! mirror of its own writes a grant file instead (see [`crate::grant::GrantFile`]).

use crate::grant::{GrantError, NetGrants};
use serde::Deserialize;

/// A named list of grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// The name on the command line and in grant files.
    pub name: &'static str,
    /// What the preset is for, in one line without a final stop.
    pub description: String,
    /// The grants.
    pub allow: NetGrants,
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
}

/// The name and the text of each preset, sorted by name.
const PRESETS: [(&str, &str); 7] = [
    ("debian", include_str!("../presets/debian.toml")),
    ("git-github", include_str!("../presets/git-github.toml")),
    ("git-gitlab", include_str!("../presets/git-gitlab.toml")),
    ("go", include_str!("../presets/go.toml")),
    ("node", include_str!("../presets/node.toml")),
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
        Ok(Self { name, description: file.description, allow })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
