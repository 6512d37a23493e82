//! Answers the requests of a client.

use super::{
    catalog::{Catalog, McpWorkspace, ToolAction},
    resources,
    state::{McpState, ToolRequest},
};
use crate::{caller::Caller, service::Service};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, Implementation, ListResourceTemplatesRequestMethod,
        ListResourceTemplatesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams,
        ReadResourceResponse, ReadResourceResult, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use std::{borrow::Cow, sync::Arc};

/// The revisions that this server speaks.
const VERSIONS: [ProtocolVersion; 3] =
    [ProtocolVersion::V_2025_06_18, ProtocolVersion::V_2025_11_25, ProtocolVersion::V_2026_07_28];

/// The time for which a client may use the list of tools again. It changes only when agentd starts again.
const TOOLS_TTL_MS: u64 = 5 * 60 * 1000;
const INSTRUCTIONS: &str = "agentd runs commands and file operations in sandboxes, as policies of this machine permit. A result \
    has `status`, `result`, `error` and `advice`: follow the advice. Long texts are cut; `cut` names each, and `output_read` \
    returns the rest. A call with the status `waiting` needs the approval of a user; `call_wait` continues it.";

/// Answers the requests of a client. Clones share all state.
#[derive(Clone)]
pub struct McpHandler {
    shared: Arc<McpState>,
    /// The caller, if the whole connection has one; otherwise each request has its own.
    caller: Option<Caller>,
}

impl McpHandler {
    /// Returns a handler. `caller` is the caller of all requests of a connection; without one, each request must have a
    /// [`Caller`] in the extensions of its HTTP request.
    pub fn new(service: Service, workspace: McpWorkspace, caller: Option<Caller>) -> Self {
        let catalog = Catalog::new(service.capabilities(), &workspace);
        let (outputs, live, parked, slots) = Default::default();
        let shared = McpState { service, catalog, workspace, outputs, live, parked, slots, is_connected: caller.is_some() };
        Self { shared: Arc::new(shared), caller }
    }

    fn caller(&self, context: &RequestContext<RoleServer>) -> Result<Caller, ErrorData> {
        let of_request = || context.extensions.get::<http::request::Parts>()?.extensions.get::<Caller>().cloned();
        self.caller.clone().or_else(of_request).ok_or_else(|| ErrorData::internal_error("the request is not authenticated", None))
    }
}

impl ServerHandler for McpHandler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools();
        let capabilities =
            if self.shared.has_resources() { capabilities.enable_resources().build() } else { capabilities.build() };
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("agentd", env!("CARGO_PKG_VERSION")).with_title("agentd"))
            .with_instructions(INSTRUCTIONS)
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(&VERSIONS)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params("cursor: the list of tools has one page only", None));
        }
        let scope = self.caller(&context).map(|caller| caller.scope).unwrap_or_default();
        let permitted = scope.capabilities.as_ref();
        let mut result = ListToolsResult::with_all_items(self.shared.catalog.tools(permitted));
        // The tools are the same for all callers that are not restricted.
        result.ttl_ms = Some(TOOLS_TTL_MS);
        result.cache_scope = Some(if permitted.is_none() { CacheScope::Public } else { CacheScope::Private });
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        if !self.shared.has_resources() {
            return Err(ErrorData::method_not_found::<ListResourceTemplatesRequestMethod>());
        }
        Ok(ListResourceTemplatesResult::with_all_items(vec![resources::template()]))
    }

    async fn read_resource(
        &self,
        params: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let caller = self.caller(&context)?;
        let owner = caller.principal.id();
        let contents = self.shared.file(&ToolRequest { context: &context, caller, owner }, &params.uri).await?;
        // A command may change the file at any time, and other callers may not read it.
        Ok(ReadResourceResult::new(vec![contents]).with_ttl_ms(0).with_cache_scope(CacheScope::Private).into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared.catalog.find(name).map(|entry| entry.tool.clone())
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let caller = self.caller(&context)?;
        let owner = caller.principal.id();
        let Some(entry) = self.shared.catalog.find(&params.name) else {
            let name: String = params.name.chars().take(128).collect();
            return Err(ErrorData::invalid_params(format!("unknown tool {name:?} — `tools/list` lists the tools"), None));
        };
        let request = ToolRequest { context: &context, caller, owner };
        match &entry.action {
            ToolAction::Capability(capability) => self.shared.capability(&request, capability, params).await,
            ToolAction::Own(tool) => Ok(self.shared.own(&request, *tool, &params.arguments.unwrap_or_default()).await.into()),
        }
    }
}
