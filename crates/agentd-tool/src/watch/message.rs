//! The request and the result of a watch.

use crate::byte_string::ByteString;
use serde::{Deserialize, Serialize};

/// Parameters of [`crate::ToolRequest::Watch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    /// The directory.
    pub path: ByteString,
    /// Also watch the directories below.
    #[serde(default = "yes")]
    pub recursive: bool,
    /// Patterns in the syntax of `gitignore(5)`. Only changes of files that match one of them are returned; with `!`, only of
    /// those that do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub glob: Vec<String>,
    /// The number of changes after which the watch ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u64>,
    /// The time after which the watch ends, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

fn yes() -> bool {
    true
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The file was created, or moved here from elsewhere.
    Created,
    /// The content was changed.
    Modified,
    /// The permissions, the owner, the times or other metadata were changed.
    Attributes,
    /// The file was removed, or moved elsewhere.
    Removed,
    /// The file was renamed within the watched directories.
    Renamed,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedChange {
    /// The kind.
    pub kind: ChangeKind,
    /// The path, relative to the watched directory.
    pub path: ByteString,
    /// The path before a file was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ByteString>,
    /// True for a directory.
    pub directory: bool,
}

/// The reason for which a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchEnd {
    /// The time is over.
    Time,
    /// The number of changes was reached.
    Count,
    /// The paths of the changes are too long in total.
    Bytes,
    /// The watched directory was removed, moved or unmounted.
    Removed,
}

/// Result of [`crate::ToolRequest::Watch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchResult {
    /// The changes, in the order in which the kernel reported them.
    pub events: Vec<WatchedChange>,
    /// The number of directories that were watched at the end.
    pub directories: u64,
    /// The number of directories that could not be watched: no permission, or too many directories.
    pub unwatched: u64,
    /// True if the kernel has dropped changes, because too many occurred at once.
    pub overflow: bool,
    /// The reason for the end.
    pub ended: WatchEnd,
}
