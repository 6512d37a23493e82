//! The daemon for agents, services and people: REST, gRPC and MCP on a Unix socket, and MCP on standard
//! input and output.
//!
//! 1. A transport authenticates its peer, and has a [`Caller`] then.
//! 2. It translates a request into an [`ExecuteRequest`], and calls [`Service::execute`].
//! 3. The [`Service`] submits the request to the engine, and has an admitted intent executed by its [`Executor`].
//! 4. The transport sends the [`CallEvent`]s while the intent is executed, and the [`ServedIntent`] at its end.
//!
//! Transports translate and authenticate. They decide nothing: admission is the engine's.

pub mod auth;
mod call;
mod caller;
mod executor;
pub mod grpc;
pub mod http;
pub mod listen;
pub mod mcp;
mod request;
mod running_intents;
mod sandboxes;
mod service;

pub use call::{CallEvent, CallInput, CallStreams};
pub use caller::{Caller, CallerScope};
pub use executor::{ExecutionCall, Executor, SandboxReach};
pub use request::{ExecuteRequest, InvalidRequest, NetworkRequest, RequestedLimits, WorkspaceRequest};
pub use service::{ServedIntent, Service, ServiceError, ServiceParts};
