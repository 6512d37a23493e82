//! The JSON Schemas of tools, derived from those of capabilities.

use agentd_engine::{Capability, Run};
use serde_json::{Map, Value, json};

/// The keywords that models' interfaces refuse at the top of a schema. The engine validates the parameters with all keywords.
const COMBINATORS: [&str; 4] = ["allOf", "anyOf", "oneOf", "not"];

/// The schema of the arguments of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InputSchema {
    /// The JSON Schema.
    pub schema: Map<String, Value>,
    /// Sentences about the rules that the schema does not state.
    pub rules: Vec<String>,
}

/// Returns the schema of the parameters of a capability, with further properties.
pub(super) fn input(capability: &Capability, reserved: &[(&'static str, Value)]) -> InputSchema {
    let mut schema = capability.parameters.text().as_object().cloned().unwrap_or_default();
    let mut rules = Vec::new();
    for keyword in COMBINATORS {
        if let Some(combined) = schema.remove(keyword) {
            rules.extend(sentences(keyword, &combined));
        }
    }
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        // A client of MCP sends no further bytes to a command.
        if let Run::Command(template) = &capability.run
            && let Some(stream) = template.stream_parameter()
        {
            properties.remove(stream);
            rules.retain(|rule| !rule.contains(&format!("`{stream}`")));
        }
        for (name, property) in reserved {
            properties.entry(*name).or_insert_with(|| property.clone());
        }
    }
    InputSchema { schema, rules }
}

/// Returns sentences for the combinators that capabilities use: one of several parameters, and parameters that exclude each
/// other.
fn sentences(keyword: &str, combined: &Value) -> Vec<String> {
    let names = |schema: &Value| -> Option<Vec<String>> {
        let names = schema.as_object().filter(|object| object.len() == 1)?.get("required")?.as_array()?;
        Some(names.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect())
    };
    let parts = combined.as_array().map(Vec::as_slice).unwrap_or_default();
    match keyword {
        "oneOf" => {
            let choices: Option<Vec<_>> = parts.iter().map(|part| names(part).map(|names| names.join(" with "))).collect();
            choices.map(|choices| format!("Exactly one of {} is required.", choices.join(", "))).into_iter().collect()
        }
        "anyOf" => {
            let choices: Option<Vec<_>> = parts.iter().map(|part| names(part).map(|names| names.join(" with "))).collect();
            choices.map(|choices| format!("At least one of {} is required.", choices.join(", "))).into_iter().collect()
        }
        "allOf" => {
            let excluded = parts.iter().filter_map(|part| part.get("not").and_then(names));
            excluded.map(|names| format!("Not both: {}.", names.join(" and "))).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns the schema of the structured content of every result of a capability's tool.
pub(super) fn output(capability: &Capability) -> Map<String, Value> {
    let mut result = capability.result.as_ref().map_or_else(command_result, |schema| schema.text().clone());
    let definitions = result.as_object_mut().and_then(|schema| {
        schema.remove("$schema");
        schema.remove("$defs")
    });
    let mut schema = json!({
        "type": "object",
        "properties": {
            "status": {
                "enum": ["finished", "failed", "refused", "interrupted", "waiting"],
                "description": "`finished`: the operation ended, see `result` and `error`. `waiting`: a user must approve it first.",
            },
            "reason": { "type": "string", "description": "Why the operation ended, such as `exited`, `timeout` or `denied`." },
            "intent": { "type": ["string", "null"], "description": "The identifier of the request in the audit log." },
            "result": { "anyOf": [result, { "type": "null" }] },
            "error": { "anyOf": [{
                "type": "object",
                "properties": { "code": { "type": "string" }, "message": { "type": "string" } },
                "required": ["code", "message"],
            }, { "type": "null" }] },
            "advice": { "type": ["string", "null"], "description": "What to do now, if the operation did not succeed." },
            "notices": { "type": "array", "items": { "type": "string" }, "description": "Messages about the run." },
            "cut": {
                "type": "array",
                "description": "The parts of `result` that are not complete here. `output_read` returns the whole.",
                "items": {
                    "type": "object",
                    "properties": {
                        "path": { "type": "string", "description": "The part, as a JSON pointer into this object." },
                        "bytes": { "type": "integer", "description": "The length of the whole text." },
                        "cursor": { "type": "integer", "description": "Where the missing part begins in the whole text." },
                        "handle": { "type": ["string", "null"], "description": "The handle of the whole text for `output_read`." },
                    },
                    "required": ["path", "bytes", "cursor", "handle"],
                },
            },
            "handle": { "type": ["string", "null"], "description": "The handle of a waiting operation for `call_wait`." },
        },
        "required": ["status", "reason", "result", "error", "cut"],
    });
    if let Some(definitions) = definitions {
        schema["$defs"] = definitions;
    }
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// Returns the schema of the result of a command: the exit code, and its streams or its terminal.
fn command_result() -> Value {
    let stream = json!({
        "type": "object",
        "properties": {
            "text": { "type": "string", "description": "The output. A mark in square brackets stands where a part is missing." },
            "utf8": { "type": "boolean", "description": "False if bytes that are not UTF-8 were replaced." },
            "bytes": { "type": "integer", "description": "The number of bytes that the command wrote." },
            "omitted": { "type": "integer", "description": "The number of bytes that were not kept." },
        },
        "required": ["text", "bytes"],
    });
    json!({
        "type": "object",
        "properties": {
            "exit_code": { "type": ["integer", "null"] },
            "signal": { "type": ["integer", "null"] },
            "stdout": stream,
            "stderr": stream,
            "terminal": stream,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_engine::CapabilityRegistry;

    #[test]
    fn no_tool_schema_has_a_combinator_at_its_top() {
        let registry = CapabilityRegistry::built_in().unwrap();
        for capability in registry.iter() {
            let input = input(capability, &[]);
            assert!(COMBINATORS.iter().all(|keyword| !input.schema.contains_key(*keyword)), "{}", capability.id());
            assert_eq!(input.schema["type"], "object");
        }
    }

    #[test]
    fn rules_of_a_schema_become_sentences() {
        let registry = CapabilityRegistry::built_in().unwrap();
        let shell = input(registry.find("shell.exec.v1").unwrap(), &[("_x", json!({ "type": "string" }))]);
        assert!(shell.rules.contains(&"Exactly one of `command`, `argv` is required.".to_owned()), "{:?}", shell.rules);
        assert!(shell.rules.contains(&"Not both: `stdin` and `stdin_base64`.".to_owned()), "{:?}", shell.rules);
        assert!(!shell.rules.iter().any(|rule| rule.contains("stdin_stream")), "{:?}", shell.rules);
        assert!(shell.schema["properties"].get("stdin_stream").is_none());
        assert_eq!(shell.schema["properties"]["_x"]["type"], "string");
    }

    #[test]
    fn references_of_a_result_still_lead_to_their_definitions() {
        let registry = CapabilityRegistry::built_in().unwrap();
        for capability in registry.iter() {
            let schema = Value::Object(output(capability));
            let text = schema.to_string();
            let references = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next());
            for reference in references {
                assert!(schema.pointer(reference).is_some(), "{}: {reference}", capability.id());
            }
        }
    }
}
