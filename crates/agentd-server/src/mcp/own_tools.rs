//! The tools that read kept outputs, and that continue or end calls that wait for an approval.

use super::catalog::{CatalogEntry, ToolAction};
use rmcp::model::{Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

/// A tool that is no capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnTool {
    /// Reads a part of a kept output.
    OutputRead,
    /// Waits for the end of a call.
    CallWait,
    /// Ends a call.
    CallCancel,
}

/// The longest wait of one request, and the usual wait, in milliseconds.
pub(super) const MAX_WAIT_MS: u64 = 300_000;
pub(super) const USUAL_WAIT_MS: u64 = 30_000;

/// Returns the tools with their names.
pub(super) fn all() -> [(String, CatalogEntry); 3] {
    let handle = |description: &str| json!({ "type": "string", "description": description, "maxLength": 64 });
    let input = |properties: Value, required: &str| {
        object(json!({
            "type": "object",
            "properties": properties,
            "required": [required],
            "additionalProperties": false,
        }))
    };
    let output_read = Tool::new(
        "output_read",
        "Returns a part of a text that an earlier result contains only in parts: the rest of an output, a file or a list. Texts \
         are kept for 30 minutes.",
        input(
            json!({
                "handle": handle("The handle, from `cut` of the result."),
                "cursor": {
                    "type": "integer",
                    "description": "The number of bytes before the part: `cursor` of `cut`, or `next_cursor` of the last part.",
                    "minimum": 0,
                    "default": 0,
                },
            }),
            "handle",
        ),
    )
    .with_raw_output_schema(
        object(json!({
            "type": "object",
            "properties": {
                "text": { "type": "string" },
                "cursor": { "type": "integer", "description": "The number of bytes before `text`." },
                "next_cursor": { "type": ["integer", "null"], "description": "The cursor of the next part; null at the end." },
                "bytes": { "type": "integer", "description": "The length of the whole text." },
            },
            "required": ["text", "cursor", "next_cursor", "bytes"],
        }))
        .into(),
    )
    .with_annotations(hints(true, false, true));
    let call_wait = Tool::new(
        "call_wait",
        "Waits for a call with the status `waiting`, which a user must approve, and returns its result. Call it again while the \
         status is `waiting`.",
        input(
            json!({
                "handle": handle("The handle, from the result with the status `waiting`."),
                "timeout_ms": {
                    "type": "integer",
                    "description": "How long to wait in milliseconds.",
                    "minimum": 0,
                    "maximum": MAX_WAIT_MS,
                    "default": USUAL_WAIT_MS,
                },
            }),
            "handle",
        ),
    )
    .with_annotations(hints(false, false, true));
    let call_cancel = Tool::new(
        "call_cancel",
        "Ends a call with the status `waiting`: it is not executed, or its processes are killed.",
        input(json!({ "handle": handle("The handle, from the result with the status `waiting`.") }), "handle"),
    )
    .with_annotations(hints(false, true, true));
    [(output_read, OwnTool::OutputRead), (call_wait, OwnTool::CallWait), (call_cancel, OwnTool::CallCancel)]
        .map(|(tool, action)| (tool.name.to_string(), CatalogEntry { tool, action: ToolAction::Own(action) }))
}

fn hints(read_only: bool, destructive: bool, idempotent: bool) -> ToolAnnotations {
    ToolAnnotations::new().read_only(read_only).destructive(destructive).idempotent(idempotent).open_world(false)
}

fn object(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}
