//! The requests: one operation each, with its parameters.
//!
//! The JSON of a request is the JSON of the capability's parameters, except for the content of a file: it follows the request as
//! raw bytes.

use crate::{
    byte_string::ByteString, fetch::message::FetchRequest, git_clone::message::CloneRequest, permissions::Permissions,
    watch::message::WatchRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A request, and the part of the file system that it may touch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// A directory. If present, every path of the request must lead to a place below it, links included, and relative paths are
    /// relative to it. Otherwise relative paths are relative to the working directory of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<ByteString>,
    /// The operation.
    pub request: ToolRequest,
}

/// An operation with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolRequest {
    /// Reads a file, or a range of it. The response has content.
    Read(ReadRequest),
    /// Writes a file. The request has content.
    Write(WriteRequest),
    /// Changes parts of a file: all edits, or none. The content of the response is a unified diff.
    Edit(EditRequest),
    /// Lists a directory.
    List(ListRequest),
    /// Searches files for a regular expression.
    Search(SearchRequest),
    /// Describes a file.
    Stat(StatRequest),
    /// Removes a file or a directory.
    Remove(RemoveRequest),
    /// Renames a file or a directory.
    Move(MoveRequest),
    /// Lists or extracts an archive.
    Archive(ArchiveRequest),
    /// Runs one SQL statement on an SQLite database.
    Sqlite(SqliteRequest),
    /// Reports changes below a directory, until a deadline.
    Watch(WatchRequest),
    /// Requests a URL. The content of the request and of the response are the bodies.
    Fetch(FetchRequest),
    /// Clones a Git repository.
    Clone(CloneRequest),
}

/// Parameters of [`ToolRequest::Read`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadRequest {
    /// The file.
    pub path: ByteString,
    /// The part to read; the whole file when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<ReadRange>,
    /// The maximum number of bytes to return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReadRange {
    /// Bytes. The rest of the file if `length` is absent.
    Bytes {
        /// The number of bytes before the range.
        offset: u64,
        /// The number of bytes in the range.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Whole lines, each with its line feed. The rest of the file if `count` is absent.
    Lines {
        /// The number of the first line. The first line of a file has the number 1.
        first: u64,
        /// The number of lines.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
}

/// Parameters of [`ToolRequest::Write`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteRequest {
    /// The file.
    pub path: ByteString,
    /// The treatment of a file that exists.
    #[serde(default)]
    pub disposition: Disposition,
    /// The permissions of the file. When absent, a file that exists keeps its permissions, and a new one gets `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Permissions>,
    /// Create missing directories above the file.
    #[serde(default)]
    pub parents: bool,
    /// Write the content to the disk before the response (`fsync(2)`).
    #[serde(default)]
    pub sync: bool,
}

/// The treatment of a file that exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Fail if the file exists.
    Create,
    /// Replace the content of the file, or create the file.
    #[default]
    Overwrite,
    /// Add the content at the end of the file, or create the file.
    Append,
}

/// Parameters of [`ToolRequest::Edit`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditRequest {
    /// The file.
    pub path: ByteString,
    /// The edits. All refer to the content before the first edit, and no two may change the same bytes.
    pub edits: Vec<TextEdit>,
    /// Compute the diff and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// As in [`WriteRequest::sync`].
    #[serde(default)]
    pub sync: bool,
}

/// One edit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TextEdit {
    /// Replaces literal text. No character of the text is a pattern.
    Literal {
        /// The text to replace. It must occur exactly once, unless `all` is true.
        old: ByteString,
        /// The new text.
        new: ByteString,
        /// Replace every occurrence. There must be at least one.
        #[serde(default)]
        all: bool,
    },
    /// Replaces whole lines, each with its line feed.
    Lines {
        /// The number of the first line; the first line of the file has the number 1.
        first: u64,
        /// The number of the last line. With `first - 1`, the new text is inserted before the line `first`.
        last: u64,
        /// The new text. It normally ends with a line feed. Empty to remove the lines.
        new: ByteString,
    },
}

/// Files to leave out while a tree is walked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TreeFilter {
    /// Patterns in the syntax of `gitignore(5)`. Only files that match one of them are returned; with `!`, only those that do
    /// not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub glob: Vec<String>,
    /// Include names that begin with a dot.
    pub hidden: bool,
    /// Include what `.gitignore`, `.ignore` and `.git/info/exclude` exclude.
    pub ignored: bool,
}

/// Parameters of [`ToolRequest::List`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRequest {
    /// The directory.
    pub path: ByteString,
    /// Levels of directories to list; 1, the default, is the directory itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Files to leave out.
    #[serde(default)]
    pub filter: TreeFilter,
    /// The maximum number of entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<u64>,
    /// The maximum time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// Parameters of [`ToolRequest::Search`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// The directory or file to search.
    pub path: ByteString,
    /// A regular expression in the syntax of the Rust crate `regex`, matched against each line.
    pub pattern: String,
    /// The pattern is literal text.
    #[serde(default)]
    pub literal: bool,
    /// Ignore the case of letters.
    #[serde(default)]
    pub ignore_case: bool,
    /// Lines to return before and after each match.
    #[serde(default)]
    pub context: u32,
    /// Files to leave out.
    #[serde(default)]
    pub filter: TreeFilter,
    /// The maximum number of matching lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_matches: Option<u64>,
    /// The maximum number of bytes of all lines returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The maximum time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// Parameters of [`ToolRequest::Stat`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatRequest {
    /// The file.
    pub path: ByteString,
    /// Describe the target of a symbolic link instead of the link.
    #[serde(default)]
    pub follow: bool,
}

/// Parameters of [`ToolRequest::Remove`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// The file or directory. A symbolic link is removed, not its target.
    pub path: ByteString,
    /// Remove a directory with everything in it.
    #[serde(default)]
    pub recursive: bool,
    /// Succeed if the file does not exist.
    #[serde(default)]
    pub missing_ok: bool,
}

/// Parameters of [`ToolRequest::Move`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// The file or directory. A symbolic link is moved, not its target.
    pub from: ByteString,
    /// The new path.
    pub to: ByteString,
    /// Replace a file, a link or an empty directory at the new path.
    #[serde(default)]
    pub replace: bool,
}

/// Parameters of [`ToolRequest::Archive`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveRequest {
    /// The archive: tar or zip; tar may be compressed by gzip, xz or zstd. Its first bytes decide, not its name.
    pub path: ByteString,
    /// Extract into this directory, which must not exist or must be empty. When absent, the archive is only listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract_to: Option<ByteString>,
    /// Patterns of the entries to list or extract, in the syntax of `gitignore(5)`; all entries when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub glob: Vec<String>,
    /// The maximum number of entries to return in the list. An archive with more entries than the fixed limit is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_entries: Option<u64>,
    /// The maximum number of bytes of all extracted files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// Parameters of [`ToolRequest::Sqlite`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteRequest {
    /// The database file.
    pub path: ByteString,
    /// One SQL statement.
    pub sql: String,
    /// The values of its parameters.
    #[serde(default)]
    pub parameters: SqlParameters,
    /// Allow statements that change the database. Without this flag, the file is opened for reading only.
    #[serde(default)]
    pub write: bool,
    /// The maximum number of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
    /// The maximum number of bytes of all values returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The maximum time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

/// The values of a statement's parameters. A value is null, a number, a string, or `{"base64": "…"}` for a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SqlParameters {
    /// The values of `?1`, `?2` and so on.
    Positional(Vec<Value>),
    /// The values of `:name`, `@name` and `$name`. A name without such a first character is that of `:name`.
    Named(Map<String, Value>),
}

impl Default for SqlParameters {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}
