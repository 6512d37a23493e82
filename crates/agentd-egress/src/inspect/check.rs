//! The check of each request inside an inspected connection.

use super::error::InspectRefusal;
use crate::{
    http::{HeadError, RequestCheck},
    record::FlowRefusal,
};
use hyper::{
    HeaderMap, Method, Version,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};

/// Headers that are about one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Checks the host in every place where a server may look for it, then method and path.
///
/// # Errors
/// The request is refused.
pub(crate) fn request(check: &RequestCheck<'_>, parts: &Parts) -> Result<(), FlowRefusal> {
    if parts.method == Method::CONNECT {
        return Err(InspectRefusal::Tunnel.into());
    }
    if parts.uri.scheme_str().is_some_and(|scheme| !scheme.eq_ignore_ascii_case("https")) {
        return Err(HeadError::OtherPort.into());
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let missing = if parts.version == Version::HTTP_2 { host.or(authority).is_none() } else { host.is_none() };
    if missing || hosts.next().is_some() {
        return Err(HeadError::NoHost.into());
    }
    for one in host.into_iter().chain(authority) {
        check.authority(one)?;
    }
    framing(&parts.headers)?;
    check.overrides(parts.headers.keys().map(HeaderName::as_str))?;
    Ok(check.allowed(parts.method.as_str(), parts.uri.path().as_bytes())?)
}

/// Refuses a body with a transfer coding other than `chunked`, or with two lengths.
fn framing(headers: &HeaderMap) -> Result<(), HeadError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(HeadError::Ambiguous("a `Transfer-Encoding` other than `chunked`"));
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        return Err(HeadError::Ambiguous("both `Transfer-Encoding` and `Content-Length`"));
    }
    Ok(())
}

/// Returns true if the request asks for an upgrade to a WebSocket (RFC 6455, 4.1).
///
/// # Errors
/// The request asks for another upgrade.
pub(crate) fn wants_websocket(parts: &Parts) -> Result<bool, InspectRefusal> {
    let mut upgrades = parts.headers.get_all(header::UPGRADE).iter();
    match (upgrades.next(), upgrades.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if parts.method == Method::GET && one.as_bytes().eq_ignore_ascii_case(b"websocket") => Ok(true),
        _ => Err(InspectRefusal::Tunnel),
    }
}

/// Removes the headers that concern one connection. Keeps `TE: trailers`, which concerns the message and which gRPC needs.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().chain(&HOP_BY_HOP).chain(&[header::TE]) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{NetGrants, PathError};
    use hyper::Request;

    fn check(method: &str, target: &str, version: Version, hosts: &[&str]) -> Result<(), FlowRefusal> {
        let grants: NetGrants = "a.example/GET:/v1/*,a.example/POST:/x".parse().unwrap();
        let name = "a.example".parse().unwrap();
        let rules = grants.tcp_name(&name, 443).unwrap().requests;
        let mut made = Request::builder().method(method).uri(target).version(version);
        for host in hosts {
            made = made.header("Host", *host);
        }
        request(&RequestCheck { name: &name, port: 443, rules: &rules }, &made.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn host_is_checked_in_every_place() {
        use Version as V;
        for (target, version, hosts) in [
            ("/v1/x", V::HTTP_11, &["a.example"][..]),
            ("/v1/x?y=/../z", V::HTTP_11, &["A.example.:443"]),
            ("https://a.example/v1/x", V::HTTP_11, &["a.example"]),
            ("https://a.example/v1/x", V::HTTP_2, &[]),
            ("https://a.example:443/v1/x", V::HTTP_2, &["a.example"]),
        ] {
            assert_eq!(check("GET", target, version, hosts), Ok(()), "{target} {hosts:?}");
        }
        for (target, version, hosts) in [
            ("/v1/x", V::HTTP_11, &[][..]),
            ("https://a.example/v1/x", V::HTTP_11, &[]),
            ("/v1/x", V::HTTP_2, &[]),
            ("/v1/x", V::HTTP_11, &["b.example"]),
            ("/v1/x", V::HTTP_11, &["a.example.evil.example"]),
            ("/v1/x", V::HTTP_11, &["a.example", "a.example"]),
            ("/v1/x", V::HTTP_11, &["a.example:8443"]),
            ("https://b.example/v1/x", V::HTTP_11, &["a.example"]),
            ("https://user@a.example/v1/x", V::HTTP_11, &["a.example"]),
            ("http://a.example/v1/x", V::HTTP_11, &["a.example"]),
            ("https://b.example/v1/x", V::HTTP_2, &[]),
            ("https://b.example/v1/x", V::HTTP_2, &["a.example"]),
            ("https://a.example/v1/x", V::HTTP_2, &["b.example"]),
            ("http://a.example/v1/x", V::HTTP_2, &[]),
        ] {
            assert!(check("GET", target, version, hosts).is_err(), "{target} {hosts:?}");
        }
    }

    #[test]
    fn method_and_path_are_checked_and_ambiguous_paths_are_refused() {
        let one = |method: &str, path: &str| check(method, path, Version::HTTP_11, &["a.example"]);
        assert_eq!(one("POST", "/x"), Ok(()));
        for (method, path) in
            [("POST", "/v1/x"), ("get", "/v1/x"), ("GET", "/v1"), ("GET", "/v1/"), ("GET", "/v2/x"), ("HEAD", "/v1/x")]
        {
            assert_eq!(one(method, path), Err(HeadError::NotAllowed.into()), "{method} {path}");
        }
        for (path, error) in [
            ("/v1/../x", PathError::Dots),
            ("/v1/%2e%2e/x", PathError::Dots),
            ("/v1/a%2Fb", PathError::Hidden),
            ("/v1//x", PathError::Doubled),
            ("/v1/a%5Cb", PathError::Hidden),
        ] {
            assert_eq!(one("GET", path), Err(HeadError::Path(error).into()), "{path}");
        }
        assert_eq!(one("CONNECT", "a.example:443"), Err(InspectRefusal::Tunnel.into()));
    }

    #[test]
    fn headers_that_change_the_meaning_of_a_request_are_refused() {
        let with = |headers: &[(&str, &str)], rules: &str| {
            let grants: NetGrants = rules.parse().unwrap();
            let name = "a.example".parse().unwrap();
            let rules = grants.tcp_name(&name, 443).unwrap().requests;
            let mut made = Request::builder().uri("/v1/x").header("Host", "a.example");
            for (header, value) in headers {
                made = made.header(*header, *value);
            }
            request(&RequestCheck { name: &name, port: 443, rules: &rules }, &made.body(()).unwrap().into_parts().0)
        };
        let rules = "a.example/GET:/v1/*";
        assert_eq!(with(&[("Transfer-Encoding", "Chunked")], rules), Ok(()));
        for headers in [
            &[("Transfer-Encoding", "gzip, chunked")][..],
            &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "chunked"), ("Content-Length", "1")],
        ] {
            assert!(matches!(with(headers, rules), Err(FlowRefusal::Request(HeadError::Ambiguous(_)))), "{headers:?}");
        }
        for name in ["X-HTTP-Method-Override", "X_HTTP_Method_Override"] {
            let replaced = [(name, "DELETE")];
            assert_eq!(with(&replaced, rules), Err(HeadError::Override("x-http-method-override").into()), "{name}");
            assert_eq!(with(&replaced, "a.example"), Ok(()), "without rules, nothing is bypassed");
        }
    }

    #[test]
    fn only_websocket_is_an_upgrade() {
        let upgrade = |method: &str, values: &[&str]| {
            let mut made = Request::builder().method(method).uri("/");
            for value in values {
                made = made.header("Upgrade", *value);
            }
            wants_websocket(&made.body(()).unwrap().into_parts().0)
        };
        assert_eq!(upgrade("GET", &[]), Ok(false));
        assert_eq!(upgrade("GET", &["WebSocket"]), Ok(true));
        for (method, values) in
            [("POST", &["websocket"][..]), ("GET", &["h2c"]), ("GET", &["websocket, h2c"]), ("GET", &["websocket", "h2c"])]
        {
            assert_eq!(upgrade(method, values), Err(InspectRefusal::Tunnel), "{values:?}");
        }
    }

    #[test]
    fn headers_of_one_connection_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("x-other", "1"),
            ("proxy-authorization", "x"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-other"]);
    }
}
