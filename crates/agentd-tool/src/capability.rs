//! The capabilities that the operations provide: their JSON Schemas, and the translation of parameters and results.
//!
//! Only this module encodes the content of files in JSON. Everywhere else, content is raw bytes.

use crate::{
    byte_string::ByteString,
    error::{ErrorCode, ToolError},
    request::ToolRequest,
    response::ToolResponse,
};
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A capability that an operation provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolCapability {
    /// The name with the version, as in `fs.read.v1`.
    pub name: &'static str,
    /// The name of the operation in [`ToolRequest`].
    operation: &'static str,
    /// A JSON object: `name`, `description`, `annotations`, and JSON Schemas (2020-12) in `parameters` and `result`.
    pub manifest: &'static str,
}

macro_rules! capability {
    ($name:literal, $operation:literal) => {
        ToolCapability { name: $name, operation: $operation, manifest: include_str!(concat!("../capabilities/", $name, ".json")) }
    };
}

/// All capabilities.
pub static CAPABILITIES: [ToolCapability; 13] = [
    capability!("archive.read.v1", "archive"),
    capability!("fs.edit.v1", "edit"),
    capability!("fs.list.v1", "list"),
    capability!("fs.move.v1", "move"),
    capability!("fs.read.v1", "read"),
    capability!("fs.remove.v1", "remove"),
    capability!("fs.search.v1", "search"),
    capability!("fs.stat.v1", "stat"),
    capability!("fs.watch.v1", "watch"),
    capability!("fs.write.v1", "write"),
    capability!("git.clone.v1", "clone"),
    capability!("http.fetch.v1", "fetch"),
    capability!("sqlite.query.v1", "sqlite"),
];

/// The encoding of the content in the results of `fs.read.v1` and `http.fetch.v1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ContentEncoding {
    /// Text if the content is UTF-8, otherwise base64.
    #[default]
    Auto,
    /// Text. Fails if the content is not UTF-8.
    Text,
    /// Base64.
    Base64,
}

/// One use of a capability.
#[derive(Debug, Clone, PartialEq)]
pub struct CapabilityCall {
    /// The request.
    pub request: ToolRequest,
    /// The content that follows the request.
    pub content: Vec<u8>,
    capability: ToolCapability,
    encoding: ContentEncoding,
}

impl ToolCapability {
    /// Returns the capability named `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        CAPABILITIES.iter().find(|capability| capability.name == name)
    }

    /// Translates the parameters of the capability.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`] for parameters that the schema does not allow.
    pub fn call(&self, parameters: Value) -> Result<CapabilityCall, ToolError> {
        let invalid = |why: &str| ToolError::new(ErrorCode::Invalid, format!("parameters of {}: {why}", self.name));
        let Value::Object(mut parameters) = parameters else { return Err(invalid("not an object")) };
        let (of_content, of_encoding) = match self.operation {
            "write" => (Some("content"), None),
            "read" => (None, Some("encoding")),
            "fetch" => (Some("body"), Some("encoding")),
            _ => (None, None),
        };
        let mut take = |name: Option<&str>| name.and_then(|name| parameters.remove(name));
        let encoding = take(of_encoding).map(ContentEncoding::deserialize).transpose();
        let content = take(of_content).map(ByteString::deserialize).transpose();
        let encoding = encoding.map_err(|error| invalid(&error.to_string()))?.unwrap_or_default();
        let content = content.map_err(|error| invalid(&error.to_string()))?;
        if self.operation == "write" && content.is_none() {
            return Err(invalid("missing field `content`"));
        }
        let tagged = Value::Object(Map::from_iter([(self.operation.to_owned(), Value::Object(parameters))]));
        let request = ToolRequest::deserialize(tagged).map_err(|error| invalid(&error.to_string()))?;
        Ok(CapabilityCall { request, content: content.unwrap_or_default().0, capability: *self, encoding })
    }
}

impl CapabilityCall {
    /// Returns the URL from which the operation begins to use the network.
    pub fn url(&self) -> Option<&str> {
        match &self.request {
            ToolRequest::Fetch(request) => Some(&request.url),
            ToolRequest::Clone(request) => Some(&request.url),
            _ => None,
        }
    }

    /// Returns true if every path must lead to a place in the workspace.
    pub fn stays_in_workspace(&self) -> bool {
        matches!(self.request, ToolRequest::Watch(_) | ToolRequest::Clone(_))
    }

    /// Translates a response and its content to the result of the capability.
    ///
    /// # Errors
    /// [`ErrorCode::Malformed`] if text was requested and the content is not UTF-8, and if the response is that of another
    /// operation.
    pub fn result(&self, response: ToolResponse, content: Vec<u8>) -> Result<Value, ToolError> {
        let malformed = |why: String| ToolError::new(ErrorCode::Malformed, why);
        let tagged = serde_json::to_value(&response).map_err(|error| malformed(error.to_string()))?;
        let Some(Value::Object(mut result)) = tagged.get(self.capability.operation).cloned() else {
            return Err(malformed(format!("{}: the response is that of another operation", self.capability.name)));
        };
        match response {
            ToolResponse::Read(_) => {
                let (encoding, content) = self.encode(content)?;
                result.extend([("encoding".to_owned(), json!(encoding)), ("content".to_owned(), json!(content))]);
            }
            ToolResponse::Fetch(_) => {
                let (encoding, body) = self.encode(content)?;
                result.extend([("encoding".to_owned(), json!(encoding)), ("body".to_owned(), json!(body))]);
            }
            ToolResponse::Edit(_) => {
                result.insert("diff".to_owned(), json!(ByteString(content)));
            }
            _ => {}
        }
        Ok(Value::Object(result))
    }

    fn encode(&self, content: Vec<u8>) -> Result<(&'static str, String), ToolError> {
        match (self.encoding, String::from_utf8(content)) {
            (ContentEncoding::Auto | ContentEncoding::Text, Ok(text)) => Ok(("text", text)),
            (ContentEncoding::Text, Err(_)) => Err(ToolError::new(
                ErrorCode::Malformed,
                "the content is not UTF-8 — request the encoding base64, or another range",
            )),
            (ContentEncoding::Auto, Err(bytes)) => Ok(("base64", BASE64.encode(bytes.as_bytes()))),
            (ContentEncoding::Base64, Ok(text)) => Ok(("base64", BASE64.encode(text.as_bytes()))),
            (ContentEncoding::Base64, Err(bytes)) => Ok(("base64", BASE64.encode(bytes.as_bytes()))),
        }
    }
}

#[cfg(test)]
#[path = "capability_tests.rs"]
mod tests;
