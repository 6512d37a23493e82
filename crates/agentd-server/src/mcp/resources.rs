//! Files of the workspace as resources: `workspace:///PATH`. A sandbox reads each file, as `fs.read.v1` does.

use super::{
    catalog::McpWorkspace,
    running::CallState,
    state::{McpState, ToolRequest},
};
use percent_encoding::percent_decode_str;
use rmcp::{
    ErrorData,
    model::{ResourceContents, ResourceTemplate},
};
use serde_json::{Map, Value, json};

/// The capability that reads a file.
const CAPABILITY: &str = "fs.read.v1";

const PREFIX: &str = "workspace:///";

/// The longest resource in bytes. The tool returns a longer file in parts.
const MAX_CONTENT: usize = 1 << 20;

/// Returns the only template.
pub(super) fn template() -> ResourceTemplate {
    ResourceTemplate::new(format!("{PREFIX}{{+path}}"), "workspace-file")
        .with_title("File of the workspace")
        .with_description("A file, by its path relative to the workspace. A sandbox reads it, as policies permit.")
}

/// Returns the path of a file, relative to the workspace; `None` if the URI names no file of the workspace.
fn path(uri: &str) -> Option<String> {
    let path = percent_decode_str(uri.strip_prefix(PREFIX)?).decode_utf8().ok()?.into_owned();
    let is_inside = !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| part != "..");
    is_inside.then_some(path)
}

/// Returns the content of a file from the result of the capability; `None` if it is too long.
fn contents(uri: &str, result: &Value) -> Option<ResourceContents> {
    let content = result["content"].as_str()?;
    if content.len() > MAX_CONTENT {
        return None;
    }
    Some(match result["encoding"].as_str() {
        Some("base64") => ResourceContents::blob(content, uri),
        _ => ResourceContents::text(content, uri),
    })
}

impl McpState {
    /// Reads a file of the workspace, if the workspace is fixed.
    pub(super) async fn file(&self, request: &ToolRequest<'_>, uri: &str) -> Result<ResourceContents, ErrorData> {
        let failed = |code: &str, message: &str| match code {
            "not-found" | "denied" => ErrorData::resource_not_found(message.to_owned(), Some(json!({ "uri": uri }))),
            _ => ErrorData::internal_error(message.to_owned(), Some(json!({ "uri": uri }))),
        };
        let path = path(uri).filter(|_| self.has_resources());
        let path =
            path.ok_or_else(|| failed("not-found", "the URI names no file of the workspace — see resources/templates/list"))?;
        let arguments = Map::from_iter([("path".to_owned(), path.into())]);
        let call = match self.begun(request, CAPABILITY, arguments) {
            Ok(call) => call,
            Err(refused) => {
                return Err(failed("failed", &refused.structured_content.unwrap_or_default()["error"]["message"].to_string()));
            }
        };
        let state = tokio::select! {
            state = call.settled(false) => state,
            () = request.context.ct.cancelled() => CallState::Running,
        };
        let CallState::Ended(ended) = state else {
            call.cancel();
            call.settled(true).await;
            return Err(failed("failed", "the file needs the approval of a user — call the tool fs_read_v1 instead"));
        };
        let served = ended.served.as_ref().map_err(|message| failed("failed", message))?;
        let object = &served.ended.object;
        if let Some(error) = object["error"].as_object() {
            let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            return Err(failed(text("code"), text("message")));
        }
        contents(uri, &object["result"])
            .ok_or_else(|| failed("failed", "the file is longer than 1 MiB — call the tool fs_read_v1 instead"))
    }

    /// Returns true if the files of a workspace are resources: the workspace is fixed.
    pub(super) fn has_resources(&self) -> bool {
        let is_fixed = matches!(self.workspace, McpWorkspace::Fixed(Some(_)));
        is_fixed && self.service.capabilities().find(CAPABILITY).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn uris_lead_only_into_the_workspace() {
        assert_eq!(path("workspace:///src/a%20b.rs").as_deref(), Some("src/a b.rs"));
        for outside in [
            "workspace:///",
            "workspace:////etc/passwd",
            "workspace:///../a",
            "workspace:///a/%2e%2e/%2E%2E/b",
            "workspace:///%2Fetc",
            "workspace:///%ff",
            "workspace://host/a",
            "file:///a",
            "",
        ] {
            assert_eq!(path(outside), None, "{outside}");
        }
    }

    #[test]
    fn text_and_bytes_have_their_forms() {
        let form =
            |encoding: &str| serde_json::to_value(contents("u", &json!({ "content": "QQ==", "encoding": encoding }))).unwrap();
        assert_eq!(form("text")["text"], "QQ==");
        assert_eq!(form("base64")["blob"], "QQ==");
        assert!(contents("u", &json!({ "content": "x".repeat(MAX_CONTENT + 1), "encoding": "text" })).is_none());
        assert!(contents("u", &json!({})).is_none());
    }
}
