//! The gRPC interface of agentd's daemon as Rust types, for server and client.
//!
//! `proto/agentd/v1/agentd.proto` defines and documents the interface, and `docs/grpc.md` describes its use.

pub mod limits;
pub mod refusals;

/// The package `agentd.v1`.
#[allow(clippy::large_enum_variant, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("agentd.v1");
}

/// The encoded descriptors of the definition, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
