//! Decides whether a response is a redirect to follow, and builds the next request.

use super::{
    headers::remove_credentials,
    message::{FetchRequest, FollowedRedirect},
    target::{WebScheme, WebUrl},
};
use crate::{
    error::{ErrorCode, ToolError},
    limits,
};
use hyper::{
    Method, StatusCode,
    body::Bytes,
    header::{self, HeaderMap, HeaderValue},
};

/// One request on the way to the response that is returned.
#[derive(Debug, Clone)]
pub(super) struct WebRequest {
    pub(super) url: WebUrl,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) followed: Vec<FollowedRedirect>,
}

impl WebRequest {
    /// Returns the next request after a response with this status and header `Location`; `None` if the response is the last.
    ///
    /// The sandbox has its granted hosts only, so the gateway refuses a redirect to any other host.
    ///
    /// # Errors
    /// [`ErrorCode::Redirect`] if the redirect is not permitted, and [`ErrorCode::Limit`] if it is one too many.
    pub(super) fn after(
        &self,
        request: &FetchRequest,
        status: StatusCode,
        location: Option<&HeaderValue>,
    ) -> Result<Option<Self>, ToolError> {
        let max = limits::REDIRECTS.of(request.max_redirects);
        let (301 | 302 | 303 | 307 | 308, Some(location), true) = (status.as_u16(), location, max > 0) else { return Ok(None) };
        if self.followed.len() as u64 >= max {
            let why = format!("{}: more than {max} redirects — raise `max_redirects`, unless it is a loop", self.url.host);
            return Err(ToolError::new(ErrorCode::Limit, why));
        }
        let refused = |why: &str| {
            let to = location.as_bytes().escape_ascii().to_string().chars().take(200).collect::<String>();
            ToolError::new(ErrorCode::Redirect, format!("redirect from {} to {to}: {why}", self.url.host))
        };
        let text = std::str::from_utf8(location.as_bytes()).map_err(|_| refused("the URL is not text"))?;
        let url = self.url.join(text).map_err(|error| refused(&error.message))?;
        let is_downgrade = (self.url.host.scheme, url.host.scheme) == (WebScheme::Https, WebScheme::Http);
        if is_downgrade && !request.allow_downgrade {
            return Err(refused("the connection would lose its encryption — set `allow_downgrade` if that is intended"));
        }
        let mut next = self.clone();
        next.followed.push(FollowedRedirect { status: status.as_u16(), url: self.url.as_str().to_owned() });
        // RFC 9110, 15.4.2 to 15.4.4: what programs do.
        let becomes_get = match status.as_u16() {
            303 => self.method != Method::HEAD,
            301 | 302 => self.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            for name in [header::CONTENT_TYPE, header::CONTENT_LANGUAGE, header::CONTENT_ENCODING] {
                next.headers.remove(name);
            }
        }
        if url.host != self.url.host {
            remove_credentials(&mut next.headers);
        }
        next.url = url;
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(more: serde_json::Value) -> FetchRequest {
        let mut value = json!({ "url": "https://a.example/x/y" });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn first(method: Method) -> WebRequest {
        let headers = [("authorization", "secret"), ("x-api-key", "secret"), ("accept", "a"), ("content-type", "t")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        WebRequest {
            url: WebUrl::parse("https://a.example/x/y").unwrap(),
            method,
            headers: headers.into_iter().collect(),
            body: Bytes::from_static(b"body"),
            followed: Vec::new(),
        }
    }

    fn next(method: Method, status: u16, location: &str) -> Result<Option<WebRequest>, ToolError> {
        let location = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        first(method).after(&asked(json!({})), StatusCode::from_u16(status).unwrap(), Some(&location))
    }

    #[test]
    fn credentials_stay_at_their_host() {
        for (location, kept) in [
            ("/z", true),
            ("https://a.example:443/z", true),
            ("https://A.example./z", true),
            ("https://a.example:444/z", false),
            ("https://b.a.example/z", false),
            ("//b.example/z", false),
        ] {
            let next = next(Method::GET, 302, location).unwrap().unwrap();
            assert_eq!(next.headers.contains_key("authorization") && next.headers.contains_key("x-api-key"), kept, "{location}");
            assert_eq!(next.headers["accept"], "a");
            assert_eq!(next.followed[0].url, "https://a.example/x/y");
        }
    }

    #[test]
    fn method_and_body_follow_the_status() {
        for (method, status, expected, body) in [
            (Method::POST, 301, Method::GET, ""),
            (Method::POST, 302, Method::GET, ""),
            (Method::POST, 303, Method::GET, ""),
            (Method::PUT, 302, Method::PUT, "body"),
            (Method::PUT, 303, Method::GET, ""),
            (Method::HEAD, 303, Method::HEAD, "body"),
            (Method::POST, 307, Method::POST, "body"),
            (Method::POST, 308, Method::POST, "body"),
        ] {
            let next = next(method, status, "/z").unwrap().unwrap();
            assert_eq!((next.method, &next.body[..]), (expected, body.as_bytes()), "{status}");
            assert_eq!(next.headers.contains_key("content-type"), !body.is_empty());
        }
    }

    #[test]
    fn downgrade_and_other_schemes_are_refused() {
        for location in ["http://a.example/z", "file:///etc/passwd", "https://u:p@a.example/", "http://", "javascript:1"] {
            assert_eq!(next(Method::GET, 302, location).unwrap_err().code, ErrorCode::Redirect, "{location}");
        }
        let location = HeaderValue::from_static("http://b.example/z");
        let next = first(Method::GET).after(&asked(json!({ "allow_downgrade": true })), StatusCode::FOUND, Some(&location));
        assert!(!next.unwrap().unwrap().headers.contains_key("authorization"));
    }

    #[test]
    fn redirects_end_at_their_number() {
        let location = HeaderValue::from_static("/again");
        let (asked, mut request) = (asked(json!({ "max_redirects": 2 })), first(Method::GET));
        for _ in 0..2 {
            request = request.after(&asked, StatusCode::FOUND, Some(&location)).unwrap().unwrap();
        }
        assert_eq!(request.after(&asked, StatusCode::FOUND, Some(&location)).unwrap_err().code, ErrorCode::Limit);
        let none = FetchRequest { max_redirects: Some(0), ..asked.clone() };
        assert!(first(Method::GET).after(&none, StatusCode::FOUND, Some(&location)).unwrap().is_none());
        assert!(first(Method::GET).after(&asked, StatusCode::FOUND, None).unwrap().is_none());
        assert!(first(Method::GET).after(&asked, StatusCode::OK, Some(&location)).unwrap().is_none());
        assert!(first(Method::GET).after(&asked, StatusCode::NOT_MODIFIED, Some(&location)).unwrap().is_none());
    }
}
