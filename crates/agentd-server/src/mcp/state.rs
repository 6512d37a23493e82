//! The state of all connections, and one request of a client.

use super::{
    catalog::{Catalog, McpWorkspace},
    live_output::LiveBytes,
    outputs::OutputStore,
    parked::ParkedCalls,
    slots::CallSlots,
};
use crate::{caller::Caller, service::Service};
use rmcp::{ErrorData, RoleServer, service::RequestContext};
use std::sync::Arc;

/// What all requests share.
pub(super) struct McpState {
    pub service: Service,
    pub catalog: Catalog,
    pub workspace: McpWorkspace,
    pub outputs: OutputStore,
    pub live: Arc<LiveBytes>,
    pub parked: Arc<ParkedCalls>,
    pub slots: Arc<CallSlots>,
    /// True if the server can ask the client while a call waits.
    pub is_connected: bool,
}

/// One request of a client.
pub(super) struct ToolRequest<'r> {
    pub context: &'r RequestContext<RoleServer>,
    pub caller: Caller,
    /// The identifier of the principal, to whom handles belong.
    pub owner: String,
}

/// Returns a handle that cannot be guessed.
pub(super) fn new_handle() -> Result<String, ErrorData> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| ErrorData::internal_error(format!("random bytes: {errno} — check that getrandom(2) works"), None))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}
