//! The grant to write instead of a text that is no grant, such as a URL.

use super::{APPROVE, Carried, check, parse::parse};
use std::net::Ipv4Addr;

/// Returns the grants that a person probably meant with the text. Every suggestion is valid.
pub(super) fn instead(item: &str) -> Option<String> {
    let without_slash = item.trim_end_matches('/').to_owned();
    let spaced = item.split_whitespace().collect::<Vec<_>>().join(",");
    let candidates = [Some(without_slash), Some(spaced), url(item), request(item)];
    let is_valid = |text: &String| text != item && text.split(',').all(|one| parse(one).is_ok());
    candidates.into_iter().flatten().find(is_valid)
}

/// Returns the destination that a person probably meant with the text.
pub(super) fn destination(text: &str) -> Option<String> {
    let grant = url(text)?;
    let instead = grant.split('/').next().unwrap_or_default();
    (instead != text && check::parse(instead).is_ok()).then(|| instead.to_owned())
}

/// Returns the host of a URL, or of a host with a user, a named port or an empty port.
fn url(item: &str) -> Option<String> {
    let (scheme, rest) = match item.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, item),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if scheme.is_none() && path.len() > 1 {
        return None;
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (name, port) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((host, ""));
    let port = match (port.to_ascii_lowercase().as_str(), scheme.as_deref()) {
        ("https", _) | ("", None | Some("https" | "wss")) => "443",
        ("http", _) | ("", Some("http" | "ws")) => "80",
        ("ssh", _) | ("", Some("ssh" | "git+ssh" | "sftp")) => "22",
        ("", Some(_)) => return None,
        _ => port,
    };
    let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
    let protocol = match (scheme.as_deref(), port) {
        _ if is_address => "",
        (Some("https" | "wss"), port) if port != "443" => "/tls",
        (Some("http" | "ws"), port) if port != "80" => "/http",
        _ => "",
    };
    match (is_address, scheme, port) {
        // Only the user knows the port of an address.
        (true, None, "443") => None,
        (false, _, "443") => Some(name.to_owned()),
        _ => Some(format!("{name}:{port}{protocol}")),
    }
}

/// Returns a host with a protocol in lower case, or with a request whose method is in upper case. If the method is missing, the
/// request has every method.
fn request(item: &str) -> Option<String> {
    let (host, rest) = item.split_once('/')?;
    let lower = rest.to_ascii_lowercase();
    let protocols = [Carried::Tcp, Carried::Tls, Carried::Http, Carried::Udp].map(Carried::word);
    let is_protocol = |word: &str| word == APPROVE || protocols.contains(&word);
    if is_protocol(&lower) {
        return Some(format!("{host}/{lower}"));
    }
    match rest.split_once(':') {
        Some((method, path)) => Some(format!("{host}/{}:{path}", method.to_ascii_uppercase())),
        None if lower.split_once('/').is_some_and(|(first, _)| !is_protocol(first)) => Some(format!("{host}/*:/{rest}")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{GrantError, NetGrants};

    #[test]
    fn malformed_grant_error_contains_valid_form() {
        for (item, wanted) in [
            ("https://a.example", "a.example"),
            ("HTTPS://A.example/v1/x?y=z", "A.example"),
            ("https://a.example:443/", "a.example"),
            ("https://a.example:8443/v1", "a.example:8443/tls"),
            ("http://a.example/", "a.example:80"),
            ("http://a.example:8080", "a.example:8080/http"),
            ("wss://a.example/socket", "a.example"),
            ("ssh://git@a.example/b/c.git", "a.example:22"),
            ("postgres://user:word@a.example:5432/db", "a.example:5432"),
            ("https://*.a.example/", "*.a.example"),
            ("https://10.0.0.1:8443/", "10.0.0.1:8443"),
            ("http://[::1]:8080/", "[::1]:8080"),
            ("a.example/", "a.example"),
            ("a.example:8443/", "a.example:8443"),
            ("10.1.2.0/24:5432/", "10.1.2.0/24:5432"),
            ("user@a.example", "a.example"),
            ("git@a.example:22", "a.example:22"),
            ("a.example:", "a.example"),
            ("a.example:https", "a.example"),
            ("a.example:ssh", "a.example:22"),
            ("a.example b.example:80", "a.example,b.example:80"),
            ("a.example/get:/x", "a.example/GET:/x"),
            ("a.example:8443/TLS", "a.example:8443/tls"),
            ("a.example/v1/x", "a.example/*:/v1/x"),
            ("a.example/Approve", "a.example/approve"),
            ("a.example/approve/", "a.example/approve"),
        ] {
            let error = item.parse::<NetGrants>().unwrap_err();
            assert!(matches!(&error, GrantError::Form { instead, .. } if instead == wanted), "{item}: {error}");
            assert!(
                error.to_string().ends_with(&format!(" — write `{wanted}`")) && !error.to_string().contains("word"),
                "{error}"
            );
        }
    }

    #[test]
    fn text_whose_meaning_is_not_clear_gets_no_suggestion() {
        for item in [
            "",
            "*",
            "ftp://a.example",
            "a.example:443/quic",
            "a.example:443/tls/x",
            "a..example",
            "a.example:0",
            "::1",
            "10.0.0.1",
            "[::1]",
        ] {
            assert_eq!(instead(item), None, "{item}");
        }
        for (text, wanted) in [
            ("https://a.example/v1", Some("a.example")),
            ("http://a.example:8080", Some("a.example:8080")),
            ("a.example:0", None),
        ] {
            assert_eq!(destination(text).as_deref(), wanted, "{text}");
        }
        // Spaces after commas and upper case are accepted.
        assert_eq!("A.example, b.example:80".parse::<NetGrants>(), "a.example,b.example:80".parse());
    }
}
