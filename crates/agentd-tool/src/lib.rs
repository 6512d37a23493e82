//! Operations on files, archives, SQLite databases, URLs and Git repositories that run inside a sandbox, in agentd's own
//! program.
//!
//! The library starts its own program in the sandbox ([`agentd_core::Sandbox::exec_tool`]) and sends one request to its standard
//! input. The process carries out the operation with the rights of the sandbox and sends one response. Parsers of untrusted data
//! therefore run behind the boundary, and contents of files are never part of a command line.
//!
//! - [`request`], [`response`] and [`error`]: the operations, their results and errors; [`wire`]: their format.
//! - [`capability`]: the names and JSON Schemas of the capabilities, and the translation of their parameters.
//! - [`call()`]: runs an operation in a sandbox, from outside.
//! - [`limits`]: the limits of all operations.
//! - [`role`]: the process in the sandbox. It resolves paths in `resolve`, and has one module for each operation.

mod archive;
pub mod byte_string;
pub mod call;
pub mod capability;
mod deadline;
mod edit;
pub mod error;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod git_clone;
mod ignore_files;
pub mod limits;
mod list;
pub mod permissions;
mod read;
mod relocate;
mod rename;
mod replacement;
pub mod request;
mod resolve;
pub mod response;
pub mod role;
mod search;
mod sqlite;
mod staged;
mod stat;
mod tree;
mod watch;
pub mod wire;
mod write;

pub use byte_string::ByteString;
pub use call::{CallError, CallOptions, CallOutput, call};
pub use capability::{CAPABILITIES, CapabilityCall, ToolCapability};
pub use error::{ErrorCode, ToolError};
pub use fetch::{
    message::{FetchRequest, FetchResult, FetchedHeader, FollowedRedirect, HeaderSource, SecretHeader},
    target::{WebHost, WebScheme},
};
pub use git_clone::message::{CloneCredential, CloneRequest, CloneResult};
pub use permissions::Permissions;
pub use request::*;
pub use response::*;
pub use watch::message::{ChangeKind, WatchEnd, WatchRequest, WatchResult, WatchedChange};
