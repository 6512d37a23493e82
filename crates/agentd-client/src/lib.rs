//! A client of agentd's daemon, by gRPC.
//!
//! 1. [`Client::connect`] connects to the Unix socket of a daemon, and [`Client::builder`] to its TCP address with an API key.
//! 2. A [`Client`] executes a [`v1::ExecuteRequest`], and lists capabilities and approvals,
//!    and creates and uses named sandboxes.
//! 3. An [`ExecutionStream`] receives the output of a command, and its [`CommandInput`] sends input to the command.
//!
//! A [`ClientError`] has the reason that the daemon states. The intent of a call ends when its future or stream is dropped.

mod client;
mod connection;
mod error;
mod execution;
mod remote;
mod sandboxes;

pub use agentd_proto::v1;
pub use client::{Client, request};
pub use error::{CallError, ClientError, FieldError};
pub use execution::{CommandInput, ExecutionEvent, ExecutionStream, NoInput};
pub use remote::ClientBuilder;
