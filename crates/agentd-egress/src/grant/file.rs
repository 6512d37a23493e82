//! The file form of grants, for lists that are too long for a command line.
//!
//! ```toml
//! presets = ["python"]
//! allow = [
//!     "api.example.com",
//!     "*.files.example:443",
//!     "10.1.2.0/24:5432",
//!     "time.example:123/udp",
//! ]
//! # Hosts to which connections wait for `agentd approve`.
//! approve = ["*.example.net"]
//! # The text that a program and its user get for a refused host.
//! deny_reason = "ask the platform team for access"
//! # Limits, as for `--net-limit`.
//! limits = "connections=100,rate=2M/s"
//! ```

use super::{GrantError, NetGrant, NetGrants};
use crate::preset::{Preset, PresetError};
use agentd_core::NetworkLimits;
use serde::Deserialize;
use std::str::FromStr;

/// The maximum size of a file of network grants, in bytes.
pub const MAX_FILE: usize = 1 << 20;

/// The maximum length of `deny_reason`, in bytes.
const MAX_REASON: usize = 1024;

/// The content of a file of network grants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrantFile {
    /// The grants of the file, those that need an approval, and those of its presets.
    pub allow: NetGrants,
    /// The operator's text for a refused host.
    pub deny_reason: Option<String>,
    /// The limits of the network.
    pub limits: NetworkLimits,
}

/// The reason why a text is not a file of network grants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantFileError {
    /// The file is too large.
    #[error("the file has more than {MAX_FILE} bytes — grant fewer hosts, or use a wildcard")]
    Long,
    /// The text is not TOML, or has an unknown key or a value of a wrong type.
    #[error(
        "line {line}: {reason} — correct the line; `allow`, `approve` and `presets` are lists of texts, `deny_reason` and `limits` are texts"
    )]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The message of the parser.
        reason: String,
    },
    /// A grant is not valid.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// A preset is not available.
    #[error(transparent)]
    Preset(#[from] PresetError),
    /// The limits are malformed.
    #[error("limits: {0}")]
    Limits(String),
    /// `deny_reason` is too long, or has a control character, which could change a terminal or a protocol.
    #[error(
        "deny_reason: more than {MAX_REASON} bytes, or a control character — use one line of at most {MAX_REASON} bytes, without \
         control characters"
    )]
    Reason,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    approve: Vec<String>,
    #[serde(default)]
    presets: Vec<String>,
    deny_reason: Option<String>,
    limits: Option<String>,
}

impl FromStr for GrantFile {
    type Err = GrantFileError;

    fn from_str(text: &str) -> Result<Self, GrantFileError> {
        if text.len() > MAX_FILE {
            return Err(GrantFileError::Long);
        }
        let content: Content = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            GrantFileError::Syntax { line: before.matches('\n').count() + 1, reason: error.message().to_owned() }
        })?;
        if content.deny_reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON || reason.chars().any(char::is_control)) {
            return Err(GrantFileError::Reason);
        }
        let mut grants = Vec::new();
        for item in &content.allow {
            grants.push(item.parse()?);
        }
        for item in &content.approve {
            grants.push(item.parse::<NetGrant>()?.with_approval()?);
        }
        for name in &content.presets {
            grants.extend(Preset::find(name)?.allow.iter().cloned());
        }
        let limits = content.limits.map_or(Ok(NetworkLimits::default()), |limits| limits.parse());
        let limits = limits.map_err(GrantFileError::Limits)?;
        Ok(Self { allow: grants.into_iter().collect(), deny_reason: content.deny_reason, limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_grants_its_list_and_its_presets() {
        let file: GrantFile = "presets = ['go']\nallow = ['a.example', '10.0.0.0/8:5432']\ndeny_reason = 'no'".parse().unwrap();
        let grants: Vec<String> = file.allow.iter().map(ToString::to_string).collect();
        assert_eq!(grants, ["a.example:443", "10.0.0.0/8:5432", "proxy.golang.org:443", "sum.golang.org:443"]);
        assert_eq!(file.deny_reason.as_deref(), Some("no"));
        let file: GrantFile = "allow = ['a.example']\napprove = ['b.example:22', 'c.example/approve']".parse().unwrap();
        let grants: Vec<String> = file.allow.iter().map(ToString::to_string).collect();
        assert_eq!(grants, ["a.example:443", "b.example:22/approve", "c.example:443/approve"]);
        let file: GrantFile = "limits = 'connections=5,bytes=1M'".parse().unwrap();
        assert_eq!(file.limits.to_string(), "connections=5,bytes=1M");
        assert_eq!("".parse::<GrantFile>().unwrap(), GrantFile::default());
    }

    #[test]
    fn faults_name_the_line_the_grant_or_the_preset() {
        let error = |text: &str| text.parse::<GrantFile>().unwrap_err().to_string();
        assert!(error("\nallow = [1]").starts_with("line 2: "), "{}", error("\nallow = [1]"));
        assert!(error("allow = [1]").contains("`allow`, `approve` and `presets` are lists of texts"), "{}", error("allow = [1]"));
        assert!(error("allowed = []").starts_with("line 1: "), "{}", error("allowed = []"));
        assert!(error("allow = ['*']").contains("\"*\""));
        assert!(error("limits = 'bytes=0'").starts_with("limits: 'bytes=0' is not a limit"), "{}", error("limits = 'bytes=0'"));
        assert!(error("presets = ['x']").contains("\"x\""));
        assert!(error("approve = ['a.example:123/udp']").contains("do not wait for an approval"));
        assert!(error("deny_reason = \"a\\u001b[2J\"").starts_with("deny_reason: "));
        assert!(error(&" ".repeat(MAX_FILE + 1)).contains("bytes"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            let _either = text.parse::<GrantFile>();
        }
    }
}
