//! What a block of a token permits at most.

use crate::{auth::Interface, caller::CallerScope};
use agentd_records::{Timestamp, json};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

/// The restrictions of one block. A member that this version does not know makes the token invalid: it may restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Caveats {
    /// The time from which the token is not valid, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The capabilities that are permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<BTreeSet<String>>,
    /// The transports that are permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transports: Option<BTreeSet<String>>,
    /// The absolute paths of the directories, without links, at or below which a workspace may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspaces: Option<Vec<PathBuf>>,
}

impl Caveats {
    /// Parses the restrictions of a block; returns `None` if they are not valid. A member that occurs twice is not, because
    /// programs differ in which one they take.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let caveats = json::parse::<Self>(text).ok().filter(Self::is_valid)?;
        text.starts_with(b"{").then_some(caveats)
    }

    /// Returns true if every path is absolute, without `.` and `..`.
    pub fn is_valid(&self) -> bool {
        let is_plain = |path: &Path| path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
        self.workspaces.iter().flatten().all(|path| is_plain(path))
    }

    /// Returns true if a block permits no request any more.
    pub(in crate::auth) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now.micros() / 1_000_000 >= expires)
    }

    /// Returns true if a block permits requests to this interface.
    pub(in crate::auth) fn permits(&self, interface: Interface) -> bool {
        self.transports.as_ref().is_none_or(|transports| transports.contains(interface.word()))
    }

    /// Restricts a scope.
    pub(in crate::auth) fn restrict(self, scope: &mut CallerScope) {
        if let Some(permitted) = self.capabilities {
            scope.capabilities = Some(match scope.capabilities.take() {
                Some(earlier) => earlier.intersection(&permitted).cloned().collect(),
                None => permitted,
            });
        }
        scope.workspaces.extend(self.workspaces);
    }
}
