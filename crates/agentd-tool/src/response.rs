//! The responses: one for each operation of [`crate::ToolRequest`].

use crate::{
    byte_string::ByteString, fetch::message::FetchResult, git_clone::message::CloneResult, permissions::Permissions,
    watch::message::WatchResult,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The result of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolResponse {
    /// See [`crate::ToolRequest::Read`]. The content of the file follows.
    Read(ReadResult),
    /// See [`crate::ToolRequest::Write`].
    Write(WriteResult),
    /// See [`crate::ToolRequest::Edit`]. The diff follows.
    Edit(EditResult),
    /// See [`crate::ToolRequest::List`].
    List(ListResult),
    /// See [`crate::ToolRequest::Search`].
    Search(SearchResult),
    /// See [`crate::ToolRequest::Stat`].
    Stat(StatResult),
    /// See [`crate::ToolRequest::Remove`].
    Remove(RemoveResult),
    /// See [`crate::ToolRequest::Move`].
    Move(MoveResult),
    /// See [`crate::ToolRequest::Archive`].
    Archive(ArchiveResult),
    /// See [`crate::ToolRequest::Sqlite`].
    Sqlite(SqliteResult),
    /// See [`crate::ToolRequest::Watch`].
    Watch(WatchResult),
    /// See [`crate::ToolRequest::Fetch`]. The body follows.
    Fetch(FetchResult),
    /// See [`crate::ToolRequest::Clone`].
    Clone(CloneResult),
}

/// The reason for which an answer is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The number of entries, matches or rows.
    Count,
    /// The number of bytes.
    Bytes,
    /// The time.
    Time,
}

/// Result of [`crate::ToolRequest::Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadResult {
    /// The size of the file, in bytes.
    pub size: u64,
    /// The number of bytes before the content.
    pub offset: u64,
    /// The length of the content, in bytes.
    pub length: u64,
    /// The number of the first line, if lines were requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_line: Option<u64>,
    /// Present if a part of the requested range is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
}

/// Result of [`crate::ToolRequest::Write`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteResult {
    /// The number of bytes written.
    pub written: u64,
    /// The size of the file, in bytes.
    pub size: u64,
    /// True if the file did not exist.
    pub created: bool,
    /// The permissions of the file.
    pub mode: Permissions,
}

/// Result of [`crate::ToolRequest::Edit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditResult {
    /// The number of places that changed.
    pub replaced: u64,
    /// The size of the file after the edits, in bytes.
    pub size: u64,
    /// Present if a part of the diff is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_truncated: Option<Truncation>,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link in an archive.
    HardLink,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A device.
    Device,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedNode {
    /// The path, relative to the listed directory.
    pub path: ByteString,
    /// The kind.
    pub kind: NodeKind,
    /// The size in bytes.
    pub size: u64,
    /// The time of the last change, in milliseconds since 1970.
    pub modified_ms: i64,
    /// The target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteString>,
}

/// Files that a walk left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The number of hidden files and directories.
    pub hidden: u64,
    /// The number of files and directories that an ignore file excludes.
    pub ignored: u64,
    /// The number of directories and files that could not be read.
    pub unreadable: u64,
}

/// Result of [`crate::ToolRequest::List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListResult {
    /// The entries, sorted by name within each directory; a directory comes before its content.
    pub entries: Vec<ListedNode>,
    /// Files left out.
    pub left_out: LeftOut,
    /// Present if entries are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
}

/// A line that a search returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundLine {
    /// The path of the file, relative to the searched directory. Empty if one file was searched.
    pub path: ByteString,
    /// The number of the line.
    pub line: u64,
    /// The line without its line feed.
    pub text: ByteString,
    /// False for a line of context.
    pub matches: bool,
    /// True if only the beginning of the line is in `text`.
    pub cut: bool,
}

/// Result of [`crate::ToolRequest::Search`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchResult {
    /// The lines, in the order of paths and lines.
    pub lines: Vec<FoundLine>,
    /// The number of matching lines in `lines`.
    pub matches: u64,
    /// The number of files searched.
    pub files: u64,
    /// The number of files not searched to their end because they contain NUL bytes.
    pub binary: u64,
    /// Files left out.
    pub left_out: LeftOut,
    /// Present if matches may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
}

/// Result of [`crate::ToolRequest::Stat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatResult {
    /// The kind.
    pub kind: NodeKind,
    /// The size in bytes.
    pub size: u64,
    /// The permissions, without set-id and sticky bits.
    pub mode: Permissions,
    /// The owner's user id, as the sandbox sees it.
    pub uid: u32,
    /// The owner's group id, as the sandbox sees it.
    pub gid: u32,
    /// The time of the last change of the content, in milliseconds since 1970.
    pub modified_ms: i64,
    /// The target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteString>,
}

/// Result of [`crate::ToolRequest::Remove`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveResult {
    /// False if there was no such file.
    pub removed: bool,
}

/// Result of [`crate::ToolRequest::Move`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveResult {
    /// True if the file was copied to another file system and then removed.
    pub copied: bool,
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveMember {
    /// The name, as in the archive.
    pub path: ByteString,
    /// The kind.
    pub kind: NodeKind,
    /// The size in bytes, as the archive states it.
    pub size: u64,
    /// The target of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteString>,
    /// The reason for which the entry is not extracted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Result of [`crate::ToolRequest::Archive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveResult {
    /// `tar`, `tar.gz`, `tar.xz`, `tar.zst` or `zip`.
    pub format: String,
    /// The entries, in the order of the archive. When extracting: only those that were refused.
    pub entries: Vec<ArchiveMember>,
    /// The number of entries that were listed or extracted.
    pub count: u64,
    /// The number of bytes of these entries.
    pub bytes: u64,
    /// Present if entries are missing in `entries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
}

/// Result of [`crate::ToolRequest::Sqlite`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteResult {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows. A value is null, a number, a string, or `{"base64": "…"}` for a blob. Text that is not UTF-8 is
    /// `{"text_base64": "…"}`, and an infinite number is `{"real": "inf"}` or `{"real": "-inf"}`.
    pub rows: Vec<Vec<Value>>,
    /// The number of rows that the statement changed.
    pub changes: u64,
    /// Present if rows are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
}
