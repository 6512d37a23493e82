//! The head of a request: its host, target, and framing.

use crate::{
    grant::{PathError, RequestRule},
    limits::MAX_FIRST_BYTES,
    name::{HostName, NameError},
};
use httparse::{EMPTY_HEADER, Header, Request, Status};

/// The number of header fields that a request may have.
const MAX_FIELDS: usize = 100;

/// The properties of a connection with which its requests are compared.
#[derive(Debug, Clone, Copy)]
pub struct RequestCheck<'a> {
    /// The granted name to which the address was assigned.
    pub name: &'a HostName,
    /// The port of the connection.
    pub port: u16,
    /// The allowed requests. Empty if every request is allowed.
    pub rules: &'a [RequestRule],
}

/// The head of an acceptable request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the head, with the empty line.
    pub length: usize,
    /// The body that follows.
    pub body: BodyLength,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// This number of bytes.
    Fixed(u64),
    /// By chunks.
    Chunked,
}

/// The reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The bytes are not an HTTP/1 request.
    #[error("not a request of HTTP/1, but the port is granted for HTTP — grant the port with `/tcp` for other protocols")]
    NotHttp,
    /// The head is larger than the limit.
    #[error(
        "the head of the request has more than {MAX_FIRST_BYTES} bytes or {MAX_FIELDS} fields — send a shorter URL, or fewer and \
         shorter fields"
    )]
    TooLong,
    /// Two servers could disagree about the end of a line or of the request.
    #[error("the request is ambiguous: {0} — correct the client, or grant the port with `/tcp`")]
    Ambiguous(&'static str),
    /// Not exactly one `Host`.
    #[error("the request has no `Host` field, or several — send exactly one, or grant the port with `/tcp`")]
    NoHost,
    /// The host is not a name.
    #[error("the request has an invalid host: {0} — correct the client")]
    Name(#[from] NameError),
    /// The request is for another host.
    #[error("the request is for {asked}, but this address was assigned to {granted} — connect to {asked} instead")]
    OtherHost {
        /// The host of the request.
        asked: HostName,
        /// The name of the address.
        granted: HostName,
    },
    /// The port or scheme of the request is not that of the connection.
    #[error("the port or scheme of the request is not that of its connection — connect to the port that the URL names")]
    OtherPort,
    /// The request is a `CONNECT` or has an `Upgrade`. The bytes that follow would not be checked.
    #[error("the request is a `CONNECT` or has an `Upgrade`, which needs TLS — use TLS, or grant the port with `/tcp`")]
    Tunnel,
    /// The path is ambiguous, and a rule depends on it.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A header could replace the method or path after the check.
    #[error(
        "the header `{0}` can replace the method or path at the server, after the check — send the request without this header"
    )]
    Override(&'static str),
    /// No grant allows the method and path.
    #[error("no network grant allows this method and path — add one such as `NAME/METHOD:PATH`")]
    NotAllowed,
}

/// Headers that make some servers replace the method or the path of a request.
const OVERRIDES: [&str; 5] = ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

impl RequestCheck<'_> {
    /// Checks the head at the start of `bytes`. Returns `None` if more bytes are needed.
    ///
    /// # Errors
    /// The request is refused.
    pub fn head(&self, bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
        // A method is a token, and all methods in use consist of letters and `-`.
        let first = bytes.first();
        if first.is_some_and(|first| !first.is_ascii_alphabetic()) {
            return Err(HeadError::NotHttp);
        }
        let Some(length) = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|position| position + 4) else {
            return if bytes.len() >= MAX_FIRST_BYTES { Err(HeadError::TooLong) } else { Ok(None) };
        };
        if length > MAX_FIRST_BYTES {
            return Err(HeadError::TooLong);
        }
        let bytes = &bytes[..length];
        lines(bytes)?;
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut request = Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(Status::Complete(parsed)) if parsed == length => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLong),
            _ => return Err(HeadError::NotHttp),
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(HeadError::NotHttp);
        };
        let fields: &[Header<'_>] = request.headers;
        if method.eq_ignore_ascii_case("CONNECT") || all(fields, "Upgrade").next().is_some() {
            return Err(HeadError::Tunnel);
        }
        let mut hosts = all(fields, "Host");
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(HeadError::NoHost) };
        self.authority(host)?;
        self.overrides(fields.iter().map(|field| field.name))?;
        self.target(method, target)?;
        Ok(Some(RequestHead { length, body: body(fields, version)? }))
    }

    /// Checks a host, with or without the port of the connection.
    pub(crate) fn authority(&self, authority: &[u8]) -> Result<(), HeadError> {
        let (host, port) = match authority.iter().position(|byte| *byte == b':') {
            Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
            None => (authority, None),
        };
        let asked = HostName::from_wire(host)?;
        if asked != *self.name {
            return Err(HeadError::OtherHost { asked, granted: self.name.clone() });
        }
        match port {
            Some(port) if port != self.port.to_string().as_bytes() => Err(HeadError::OtherPort),
            _ => Ok(()),
        }
    }

    fn target(&self, method: &str, target: &str) -> Result<(), HeadError> {
        let mut path = target;
        if !target.starts_with('/') && target != "*" {
            let (scheme, rest) = target.split_once("://").ok_or(HeadError::NotHttp)?;
            if !scheme.eq_ignore_ascii_case("http") {
                return Err(HeadError::OtherPort);
            }
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            self.authority(&rest.as_bytes()[..end])?;
            path = if rest[end..].starts_with('/') { &rest[end..] } else { "/" };
        }
        self.allowed(method, path.split('?').next().unwrap_or(path).as_bytes())
    }

    /// Refuses headers that make some servers replace the method or the path, if a rule depends on these.
    pub(crate) fn overrides<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Result<(), HeadError> {
        if self.rules.is_empty() {
            return Ok(());
        }
        // Servers that pass headers as variables (RFC 3875, 4.1.18) do not distinguish `-` and `_`.
        let same = |name: &str, other: &str| {
            let equal = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
            name.len() == other.len() && name.bytes().zip(other.bytes()).all(equal)
        };
        match names.find_map(|name| OVERRIDES.into_iter().find(|other| same(name, other))) {
            Some(header) => Err(HeadError::Override(header)),
            None => Ok(()),
        }
    }

    /// Checks the method and the path, which has no query.
    pub(crate) fn allowed(&self, method: &str, path: &[u8]) -> Result<(), HeadError> {
        if self.rules.is_empty() {
            return Ok(());
        }
        for rule in self.rules {
            if rule.allows(method, path)? {
                return Ok(());
            }
        }
        Err(HeadError::NotAllowed)
    }
}

/// Checks that every line ends with CR and LF, and that neither occurs elsewhere. `httparse` also accepts a bare LF.
fn lines(head: &[u8]) -> Result<(), HeadError> {
    let bare = head.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => at == 0 || head[at - 1] != b'\r',
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        _ => false,
    });
    if bare { Err(HeadError::Ambiguous("a line does not end with CR and LF")) } else { Ok(()) }
}

fn all<'a>(fields: &'a [Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

fn body(fields: &[Header<'_>], version: u8) -> Result<BodyLength, HeadError> {
    let mut codings = all(fields, "Transfer-Encoding");
    let mut lengths = all(fields, "Content-Length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(BodyLength::Fixed(0)),
        (Some(_), Some(_)) => Err(HeadError::Ambiguous("both `Transfer-Encoding` and `Content-Length`")),
        (Some(coding), None) => {
            if version == 0 || codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Ambiguous("a `Transfer-Encoding` other than `chunked`"));
            }
            Ok(BodyLength::Chunked)
        }
        (None, Some(length)) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit) && lengths.next().is_none();
            let length = str::from_utf8(length).ok().and_then(|length| length.parse().ok()).filter(|_| digits);
            length.map(BodyLength::Fixed).ok_or(HeadError::Ambiguous("a `Content-Length` that is not one number"))
        }
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
