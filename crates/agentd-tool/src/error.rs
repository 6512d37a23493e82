//! The error of an operation, as the response states it.

use crate::byte_string::ByteString;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The error of an operation. Nothing was changed, unless the message says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(deny_unknown_fields)]
pub struct ToolError {
    /// The kind of the error, for programs.
    pub code: ErrorCode,
    /// What failed, the cause, and what to do, for people. Bytes of a path that are not printable are escaped.
    pub message: String,
    /// The path at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ByteString>,
    /// The error number of the system call that failed (`errno(3)`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

/// The kind of a [`ToolError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request is not valid.
    Invalid,
    /// There is no such file.
    NotFound,
    /// The file exists already.
    AlreadyExists,
    /// The file is not of the kind that the operation needs: for example, a directory or a FIFO instead of a regular file.
    WrongKind,
    /// The permissions do not allow the operation, or the file system is read-only.
    PermissionDenied,
    /// The path leads out of the directory that the caller named.
    Outside,
    /// The text to replace does not occur.
    NoMatch,
    /// The text to replace occurs more than once.
    Ambiguous,
    /// Two edits change the same bytes.
    Overlap,
    /// A line number is behind the end of the file.
    OutOfRange,
    /// The file changed during the operation.
    Changed,
    /// A limit was reached.
    Limit,
    /// The archive or the database is malformed or is of an unsupported kind.
    Malformed,
    /// The statement is not allowed, or SQLite refused it.
    Sql,
    /// A host could not be reached, or its response is malformed.
    Network,
    /// A redirect is not permitted.
    Redirect,
    /// Git failed.
    Git,
    /// Another error of the system.
    System,
}

impl ToolError {
    /// Creates an error without a path.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), path: None, errno: None }
    }

    /// Creates an error about the path `path`: `what PATH: why`.
    pub fn at(code: ErrorCode, what: &str, path: &[u8], why: &str) -> Self {
        let message = format!("{what} {}: {why}", path.escape_ascii());
        Self { code, message, path: Some(path.into()), errno: None }
    }

    /// Creates the error of a system call: `what PATH: cause`, with a remedy where one is known.
    pub fn system(what: &str, path: &[u8], errno: Errno) -> Self {
        let (code, remedy) = match errno {
            Errno::NOENT => (ErrorCode::NotFound, " — check the path"),
            Errno::EXIST => (ErrorCode::AlreadyExists, " — choose another path, or allow the operation to replace the file"),
            Errno::ISDIR => (ErrorCode::WrongKind, " — name a file"),
            Errno::NOTDIR => (ErrorCode::WrongKind, " — name a directory"),
            Errno::NOTEMPTY => (ErrorCode::WrongKind, " — allow the operation to remove what is in the directory"),
            Errno::NXIO | Errno::NODEV => (ErrorCode::WrongKind, " — name a regular file"),
            Errno::ACCESS | Errno::PERM => {
                (ErrorCode::PermissionDenied, " — name a path that the sandbox shows, or change its permissions on the host")
            }
            Errno::ROFS => (ErrorCode::PermissionDenied, " — name a path in a workspace that is not read-only"),
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => (ErrorCode::Limit, " — free space, or raise the limit"),
            Errno::NAMETOOLONG | Errno::INVAL => (ErrorCode::Invalid, " — use another path"),
            _ => (ErrorCode::System, ""),
        };
        let error = Self::at(code, what, path, &format!("{errno}{remedy}"));
        Self { errno: Some(errno.raw_os_error()), ..error }
    }
}
