//! URLs of HTTP servers, and the hosts that they lead to.

use crate::error::{ErrorCode, ToolError};
use std::fmt;
use url::{Host, Url};

/// The maximum length of a URL, in bytes.
pub(crate) const MAX_URL: usize = 8192;

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebScheme {
    /// HTTP without encryption.
    Http,
    /// HTTP over TLS.
    Https,
}

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebHost {
    /// The scheme.
    pub scheme: WebScheme,
    /// The name in lower case, in its ASCII form and without a dot at its end, or the address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A URL that can be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebUrl {
    url: Url,
    /// The host.
    pub(crate) host: WebHost,
}

impl WebHost {
    /// Returns the host of a URL.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`] if the text is not the URL of an HTTP server, or contains a user name or password.
    pub fn of(url: &str) -> Result<Self, ToolError> {
        WebUrl::parse(url).map(|url| url.host)
    }
}

impl WebUrl {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// As for [`WebHost::of`].
    pub(crate) fn parse(text: &str) -> Result<Self, ToolError> {
        if text.len() > MAX_URL {
            return Err(invalid("the URL is longer than 8192 bytes — use a shorter one"));
        }
        Self::new(
            Url::parse(text).map_err(|error| invalid(&format!("{error} — write an absolute URL such as https://a.example/"))),
        )
    }

    /// Reads a URL that may be relative to this one.
    ///
    /// # Errors
    /// As for [`WebHost::of`].
    pub(crate) fn join(&self, text: &str) -> Result<Self, ToolError> {
        if text.len() > MAX_URL {
            return Err(invalid("the URL is longer than 8192 bytes"));
        }
        Self::new(self.url.join(text).map_err(|error| invalid(&error.to_string())))
    }

    fn new(url: Result<Url, ToolError>) -> Result<Self, ToolError> {
        let mut url = url?;
        let scheme = match url.scheme() {
            "http" => WebScheme::Http,
            "https" => WebScheme::Https,
            _ => return Err(invalid("the scheme is neither http nor https — use one of the two")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("the URL contains a user name or password — use `--secret`, or a header"));
        }
        url.set_fragment(None);
        let host = match url.host() {
            Some(Host::Domain(name)) => name.strip_suffix('.').unwrap_or(name).to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(invalid("the URL has no host — name one")),
        };
        let port =
            url.port_or_known_default().filter(|port| *port != 0).ok_or_else(|| invalid("the port is 0 — name another"))?;
        // The name without the dot at its end is the one in grants, in certificates and in the header `Host`.
        if matches!(url.host(), Some(Host::Domain(name)) if name.ends_with('.')) {
            url.set_host(Some(&host)).map_err(|error| invalid(&error.to_string()))?;
        }
        Ok(Self { url, host: WebHost { scheme, host, port } })
    }

    /// Returns path and query, as in the first line of a request.
    pub(crate) fn path_and_query(&self) -> &str {
        &self.url[url::Position::BeforePath..url::Position::AfterQuery]
    }

    /// Returns host and port, as in the header `Host`. The usual port of the scheme is left out.
    pub(crate) fn authority(&self) -> &str {
        &self.url[url::Position::BeforeHost..url::Position::AfterPort]
    }

    /// Returns the text.
    pub(crate) fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

impl fmt::Display for WebHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn invalid(why: &str) -> ToolError {
    ToolError::new(ErrorCode::Invalid, format!("URL: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_in_normal_form() {
        use WebScheme::{Http, Https};
        for (url, scheme, host, port) in [
            ("https://A.Example/x", Https, "a.example", 443),
            ("http://a.example.:8080", Http, "a.example", 8080),
            ("https://b\u{fc}cher.example/", Https, "xn--bcher-kva.example", 443),
            ("http://0x7f.1/", Http, "127.0.0.1", 80),
            ("http://[2001:DB8::1]:81/", Http, "2001:db8::1", 81),
        ] {
            assert_eq!(WebHost::of(url).unwrap(), WebHost { scheme, host: host.to_owned(), port }, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        let long = format!("https://a.example/{}", "a".repeat(MAX_URL));
        for url in [
            "",
            "a.example",
            "/path",
            "file:///etc/passwd",
            "ext::sh -c id",
            "https://",
            "https://u@a.example",
            "https://u:p@a.example",
        ]
        .into_iter()
        .chain(["http://a.example:0/", "http://a.example:99999/", "https://:p@a.example", "gopher://a.example", &long])
        {
            assert_eq!(WebHost::of(url).unwrap_err().code, ErrorCode::Invalid, "{url}");
        }
    }

    #[test]
    fn request_line_and_host_leave_out_fragment_and_usual_port() {
        let url = WebUrl::parse("https://a.example.:443/a%20b?c=d#e").unwrap();
        assert_eq!(
            (url.path_and_query(), url.authority(), url.as_str()),
            ("/a%20b?c=d", "a.example", "https://a.example/a%20b?c=d")
        );
        assert_eq!(url.join("../b?x").unwrap().as_str(), "https://a.example/b?x");
        assert_eq!(url.join("//b.example:8/").unwrap().authority(), "b.example:8");
        assert!(url.join("ftp://a.example").is_err() && url.join("https://u@a.example").is_err());
    }
}
