//! An HTTP proxy of the host, through which the gateway connects.
//!
//! The gateway resolves and checks the name first, and requests a tunnel to the address (`CONNECT ADDRESS:PORT`). For a proxy
//! that accepts only names, [`ProxyServer::sends_names`] must be set: the proxy then resolves the name, and the gateway checks no
//! address.

use crate::{
    connect::connect,
    name::{HostName, NamePattern},
    relay::read_some,
    socket::Socket,
};
use data_encoding::BASE64;
use ipnet::IpNet;
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};
use tokio::net::lookup_host;

/// The maximum size of a response to `CONNECT`, in bytes.
const MAX_RESPONSE: usize = 8 * 1024;
/// The default port of a proxy.
const DEFAULT_PORT: u16 = 80;

/// The way from the host to the destinations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Upstream {
    /// The host connects directly.
    #[default]
    Direct,
    /// Through a proxy.
    Proxy(ProxyServer),
}

/// An HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyServer {
    host: String,
    port: u16,
    login: Option<ProxyLogin>,
    /// True if the proxy receives names. Addresses are then not checked.
    pub sends_names: bool,
    except: Vec<Exception>,
}

/// The value of `Proxy-Authorization` (RFC 7617). It is never printed.
#[derive(Clone, PartialEq, Eq)]
struct ProxyLogin(String);

impl fmt::Debug for ProxyLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyLogin")
    }
}

/// An entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Names(NamePattern),
    Range(IpNet),
}

/// The reason why a setting is not a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The scheme is not `http`.
    #[error("upstream proxy: the scheme is not `http` — use an HTTP proxy, as in `http://proxy.example:3128`")]
    Scheme,
    /// The user or password cannot be decoded.
    #[error("upstream proxy: the login in the setting has a `%` without two hexadecimal digits — write `%25` for a `%`")]
    Login,
    /// The host or port is damaged.
    #[error("upstream proxy: {0:?} is neither HOST nor HOST:PORT — correct the setting of the proxy (HTTPS_PROXY)")]
    Address(String),
}

impl ProxyServer {
    /// Reads the values of `HTTPS_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// `HTTPS_PROXY` is not a usable HTTP proxy. Unknown entries of `NO_PROXY` are ignored, as in other programs.
    pub fn from_settings(proxy: &str, except: &str) -> Result<Self, ProxyError> {
        let address = match proxy.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => proxy,
        };
        let address = address.split(['/', '?', '#']).next().unwrap_or(address);
        let (login, address) = match address.rsplit_once('@') {
            Some((login, address)) => (Some(login_of(login)?), address),
            None => (None, address),
        };
        let error = || ProxyError::Address(address.to_owned());
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| error())?),
            _ => (address, DEFAULT_PORT),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.parse::<IpAddr>().is_err() && bare.parse::<HostName>().is_err() {
            return Err(error());
        }
        let except = except.split(',').flat_map(|entry| exceptions(entry.trim())).collect();
        Ok(Self { host: bare.to_owned(), port, login, sends_names: false, except })
    }

    /// Returns true if the destination is reached without the proxy.
    pub(crate) fn excepts(&self, name: Option<&HostName>, address: Option<IpAddr>) -> bool {
        self.except.iter().any(|exception| match exception {
            Exception::All => true,
            Exception::Names(pattern) => name.is_some_and(|name| pattern.matches(name)),
            Exception::Range(range) => address.is_some_and(|address| range.contains(&address)),
        })
    }

    /// Opens a tunnel. Returns the connection, and bytes of the tunnel that arrived with the response.
    pub(crate) async fn tunnel(&self, to: &str) -> io::Result<(Socket, Vec<u8>)> {
        let addresses: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        let proxy = Socket::Tcp(connect(&addresses).await?);
        let login = self.login.iter().map(|ProxyLogin(login)| format!("Proxy-Authorization: {login}\r\n")).collect::<String>();
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{login}\r\n");
        let mut left = request.as_bytes();
        while !left.is_empty() {
            proxy.writable().await?;
            match proxy.try_write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut response = Vec::new();
        loop {
            if !read_some(&proxy, &mut response, MAX_RESPONSE).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(length) = accepted(&response)? {
                response.drain(..length);
                return Ok((proxy, response));
            }
        }
    }
}

/// Decodes `USER:PASSWORD` of a URL, and encodes it for the header.
fn login_of(text: &str) -> Result<ProxyLogin, ProxyError> {
    let text = if text.contains(':') { text.to_owned() } else { format!("{text}:") };
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(ProxyError::Login);
            plain.push(u8::try_from(digit()? * 16 + digit()?).map_err(|_| ProxyError::Login)?);
        } else {
            plain.push(byte);
        }
    }
    Ok(ProxyLogin(format!("Basic {}", BASE64.encode(&plain))))
}

/// Reads one entry. As in other programs, a name also stands for the names below it. A name with a leading dot stands only for
/// the names below.
fn exceptions(entry: &str) -> Vec<Exception> {
    if entry == "*" {
        return vec![Exception::All];
    }
    let range = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
    if let Ok(range) = range {
        return vec![Exception::Range(range)];
    }
    let below = entry.strip_prefix("*.").or_else(|| entry.strip_prefix('.'));
    let Ok(name) = below.unwrap_or(entry).parse::<HostName>() else { return Vec::new() };
    let mut patterns = vec![Exception::Names(NamePattern::below(name.clone()))];
    if below.is_none() {
        patterns.push(Exception::Names(NamePattern::exactly(name)));
    }
    patterns
}

/// Returns the length of the head of a response that opens a tunnel, or `None` if more bytes are needed.
fn accepted(response: &[u8]) -> io::Result<Option<usize>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(response) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => match parsed.code {
            Some(200..=299) => Ok(Some(length)),
            code => Err(io::Error::other(format!("the proxy refused the connection with status {}", code.unwrap_or(0)))),
        },
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the answer of the proxy: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_other_programs_are_read() {
        for (text, host, port) in [
            ("http://proxy.example:3128", "proxy.example", 3128),
            ("HTTP://proxy.example:3128/", "proxy.example", 3128),
            ("proxy.example:8080", "proxy.example", 8080),
            ("http://proxy.example", "proxy.example", 80),
            ("http://10.0.0.1:8080", "10.0.0.1", 8080),
            ("http://[::1]:8080", "::1", 8080),
            ("http://[::1]", "::1", 80),
        ] {
            let proxy = ProxyServer::from_settings(text, "").unwrap();
            assert_eq!((proxy.host.as_str(), proxy.port, proxy.sends_names), (host, port, false), "{text}");
        }
        for (text, error) in [
            ("https://proxy.example:1", ProxyError::Scheme),
            ("socks5://proxy.example:1", ProxyError::Scheme),
            ("http://user:100%@proxy.example:1", ProxyError::Login),
            ("http://:1", ProxyError::Address(":1".to_owned())),
            ("http://a:x", ProxyError::Address("a:x".to_owned())),
        ] {
            assert_eq!(ProxyServer::from_settings(text, ""), Err(error), "{text}");
        }
    }

    #[test]
    fn login_is_decoded_for_the_header_and_not_printed() {
        let proxy = ProxyServer::from_settings("http://Aladdin:open%20sesame@proxy.example:1", "").unwrap();
        assert_eq!(proxy.login.as_ref().unwrap().0, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 1));
        assert!(!format!("{proxy:?}").contains("QWxh"), "{proxy:?}");
        let user = ProxyServer::from_settings("http://a@proxy:1", "").unwrap();
        assert_eq!(user.login.unwrap().0, "Basic YTo=");
    }

    #[test]
    fn exceptions_match_names_below_and_ranges() {
        let proxy =
            ProxyServer::from_settings("proxy:1", "localhost, .corp.example,b.example,10.0.0.0/8 ,::1,bad..name").unwrap();
        let name = |text: &str| proxy.excepts(Some(&text.parse().unwrap()), None);
        assert!(name("localhost") && name("a.corp.example") && name("b.example") && name("a.b.example"));
        assert!(!name("corp.example") && !name("corp.example.evil") && !name("a.example") && !name("ab.example"));
        let address = |text: &str| proxy.excepts(None, Some(text.parse().unwrap()));
        assert!(address("10.1.2.3") && address("::1") && !address("11.0.0.1"));
        assert!(ProxyServer::from_settings("proxy:1", "*").unwrap().excepts(None, None));
    }

    #[test]
    fn only_a_status_of_success_opens_a_tunnel() {
        assert_eq!(accepted(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nSSH").unwrap(), Some(25));
        assert_eq!(accepted(b"HTTP/1.1 200 OK\r\nX: y\r\n").unwrap(), None);
        assert!(accepted(b"HTTP/1.1 407 No\r\n\r\n").is_err());
        assert!(accepted(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
