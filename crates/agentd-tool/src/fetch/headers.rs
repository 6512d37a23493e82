//! The headers of a request.

use super::message::{FetchRequest, HeaderSource, SecretHeader};
use crate::error::{ErrorCode, ToolError};
use data_encoding::BASE64;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The maximum number of headers of a request.
const MAX_COUNT: usize = 100;

/// The maximum length of all headers of a request, in bytes.
const MAX_LENGTH: usize = 64 << 10;

/// Headers that frame the message, or that concern one connection only. The program sets them itself.
const OWN: [HeaderName; 12] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Headers that another host gets after a redirect. Any other header may contain a credential.
const WITHOUT_CREDENTIALS: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::USER_AGENT,
];

/// Returns the headers of a request. `variable` returns an environment variable, which may hold a placeholder.
///
/// # Errors
/// [`ErrorCode::Invalid`] for a header that the caller cannot set.
pub(super) fn of(request: &FetchRequest, variable: &dyn Fn(&str) -> Option<String>) -> Result<HeaderMap, ToolError> {
    let mut headers = HeaderMap::new();
    let mut length = 0;
    for (name, source) in &request.headers {
        let parsed: HeaderName = name.parse().map_err(|_| invalid(name, "not the name of a header"))?;
        if OWN.contains(&parsed) {
            return Err(invalid(name, "agentd sets this header itself — leave it out"));
        }
        let text = value(name, source, variable)?;
        length += name.len() + text.len();
        let mut value =
            HeaderValue::from_bytes(text.as_bytes()).map_err(|_| invalid(name, "the value contains a control character"))?;
        value.set_sensitive(matches!(source, HeaderSource::Secret(_)));
        if headers.insert(parsed, value).is_some() {
            return Err(invalid(name, "the header is given twice — join the values"));
        }
    }
    if headers.len() > MAX_COUNT || length > MAX_LENGTH {
        return Err(ToolError::new(ErrorCode::Invalid, "headers: more than 100, or longer than 64 KiB in total — send fewer"));
    }
    // The program decompresses nothing, so that a limit of the response is a limit of the memory.
    for (name, usual) in [(header::ACCEPT, "*/*"), (header::ACCEPT_ENCODING, "identity"), (header::USER_AGENT, "agentd")] {
        headers.entry(name).or_insert(HeaderValue::from_static(usual));
    }
    Ok(headers)
}

fn value(name: &str, source: &HeaderSource, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, ToolError> {
    let SecretHeader { secret, scheme, user } = match source {
        HeaderSource::Text(text) => return Ok(text.clone()),
        HeaderSource::Secret(secret) => secret,
    };
    let missing = || invalid(name, &format!("the sandbox has no secret {secret:?} — name it by --secret {secret}@HOST=SOURCE"));
    let placeholder = variable(secret).ok_or_else(missing)?;
    match (scheme, user) {
        (None, None) => Ok(placeholder),
        (Some(scheme), None) => Ok(format!("{scheme} {placeholder}")),
        (None, Some(user)) if !user.contains(':') => {
            Ok(format!("Basic {}", BASE64.encode(format!("{user}:{placeholder}").as_bytes())))
        }
        (None, Some(_)) => Err(invalid(name, "the user name contains a colon")),
        (Some(_), Some(_)) => Err(invalid(name, "`scheme` and `user` exclude each other — leave out one of them")),
    }
}

/// Removes the headers that another host does not get.
pub(super) fn remove_credentials(headers: &mut HeaderMap) {
    let removed: Vec<HeaderName> = headers.keys().filter(|name| !WITHOUT_CREDENTIALS.contains(name)).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

fn invalid(name: &str, why: &str) -> ToolError {
    ToolError::new(ErrorCode::Invalid, format!("header {name:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(headers: serde_json::Value) -> FetchRequest {
        serde_json::from_value(json!({ "url": "https://a.example", "headers": headers })).unwrap()
    }

    fn made(headers: serde_json::Value) -> Result<HeaderMap, ToolError> {
        of(&request(headers), &|name| (name == "TOKEN").then(|| "placeholder".to_owned()))
    }

    #[test]
    fn secret_is_the_placeholder_in_its_form() {
        for (source, expected) in [
            (json!({ "secret": "TOKEN" }), "placeholder"),
            (json!({ "secret": "TOKEN", "scheme": "Bearer" }), "Bearer placeholder"),
            (json!({ "secret": "TOKEN", "user": "u" }), "Basic dTpwbGFjZWhvbGRlcg=="),
            (json!("plain"), "plain"),
        ] {
            assert_eq!(made(json!({ "Authorization": source })).unwrap()["authorization"], expected);
        }
        assert_eq!(made(json!({})).unwrap()["accept-encoding"], "identity");
    }

    #[test]
    fn header_of_the_message_itself_or_with_a_control_character_is_refused() {
        for headers in [
            json!({ "Host": "b.example" }),
            json!({ "transfer-encoding": "chunked" }),
            json!({ "Content-Length": "1" }),
            json!({ "Proxy-Connection": "close" }),
            json!({ "X": "a\r\nHost: b.example" }),
            json!({ "X Y": "a" }),
            json!({ "X": "a", "x": "b" }),
            json!({ "X": { "secret": "OTHER" } }),
            json!({ "X": { "secret": "TOKEN", "user": "a:b" } }),
            json!({ "X": { "secret": "TOKEN", "user": "a", "scheme": "b" } }),
            json!({ "X": "a".repeat(MAX_LENGTH) }),
        ] {
            assert_eq!(made(headers.clone()).unwrap_err().code, ErrorCode::Invalid, "{headers}");
        }
    }

    #[test]
    fn other_host_gets_no_header_that_may_be_a_credential() {
        let sent = json!({ "Authorization": "a", "Cookie": "b", "X-Api-Key": "c", "Accept": "d", "Content-Type": "e" });
        let mut headers = made(sent).unwrap();
        remove_credentials(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "accept-encoding", "content-type", "user-agent"]);
    }
}
