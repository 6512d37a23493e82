//! The text of a request that is signed, and its signature ("Create a signed AWS API request" in the IAM User Guide).

use super::ALGORITHM;
use crate::inspect::error::AwsRefusal;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::{
    HeaderMap,
    header::{self, HeaderName},
    http::request::Parts,
};
use sha2::{Digest as _, Sha256};
use std::fmt;
use zeroize::Zeroizing;

/// The service whose paths are encoded once and not normalised.
const S3: &str = "s3";
const HEXADECIMAL: &[u8; 16] = b"0123456789ABCDEF";

/// The scope of a signature.
pub(super) struct Scope<'a> {
    /// The day as `YYYYMMDD`.
    pub(super) day: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/aws4_request", self.day, self.region, self.service)
    }
}

/// A request, and what is signed of it.
pub(super) struct Canonical<'a> {
    pub(super) parts: &'a Parts,
    /// The value of `Host`, which HTTP/2 sends in another place.
    pub(super) host: &'a [u8],
    /// The names of the signed headers, in lower case and sorted.
    pub(super) headers: &'a [String],
    /// The digest of the body in hexadecimal digits, or the word that stands for it.
    pub(super) payload: &'a str,
    pub(super) scope: &'a Scope<'a>,
}

impl Canonical<'_> {
    /// Returns the signature with a secret access key, in hexadecimal digits.
    ///
    /// # Errors
    /// The path or the query cannot be decoded.
    pub(super) fn signature(&self, time: &str, secret: &[u8]) -> Result<String, AwsRefusal> {
        let digest = HEXLOWER.encode(&Sha256::digest(self.text()?));
        let text = format!("{ALGORITHM}\n{time}\n{}\n{digest}", self.scope);
        let mut key = Zeroizing::new([b"AWS4", secret].concat());
        for part in [self.scope.day, self.scope.region, self.scope.service, "aws4_request"] {
            key = mac(&key, part.as_bytes())?;
        }
        Ok(HEXLOWER.encode(&mac(&key, text.as_bytes())?))
    }

    /// Returns the canonical request.
    fn text(&self) -> Result<Vec<u8>, AwsRefusal> {
        let uri = &self.parts.uri;
        let path = path(uri.path(), self.scope.service)?;
        let query = query(uri.query().unwrap_or_default())?;
        let mut text = format!("{}\n{path}\n{query}\n", self.parts.method).into_bytes();
        for name in self.headers {
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            if name == header::HOST.as_str() {
                text.extend_from_slice(self.host);
            } else {
                text.extend(values(&self.parts.headers, name)?);
            }
            text.push(b'\n');
        }
        text.extend(format!("\n{}\n{}", self.headers.join(";"), self.payload).into_bytes());
        Ok(text)
    }
}

fn mac(key: &[u8], text: &[u8]) -> Result<Zeroizing<Vec<u8>>, AwsRefusal> {
    // HMAC has keys of every length (RFC 2104), so this error does not occur.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| AwsRefusal::Form)?;
    mac.update(text);
    Ok(Zeroizing::new(mac.finalize().into_bytes().to_vec()))
}

/// Returns the values of a signed header: each trimmed, with single spaces, and separated by commas.
fn values(headers: &HeaderMap, name: &str) -> Result<Vec<u8>, AwsRefusal> {
    let name: HeaderName = name.parse().map_err(|_| AwsRefusal::Form)?;
    let mut joined = Vec::new();
    let mut found = false;
    for value in headers.get_all(name) {
        if found {
            joined.push(b',');
        }
        found = true;
        let mut words = value.as_bytes().trim_ascii().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        joined.extend_from_slice(words.next().unwrap_or_default());
        for word in words {
            joined.push(b' ');
            joined.extend_from_slice(word);
        }
    }
    // A signed header that is missing could be added by another party.
    if found { Ok(joined) } else { Err(AwsRefusal::Form) }
}

/// Returns the path. All services but S3 normalise the path of the request and encode it once more.
fn path(sent: &str, service: &str) -> Result<String, AwsRefusal> {
    if service == S3 {
        return Ok(encode(&decode(sent)?, true));
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in sent.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let end = if !segments.is_empty() && sent.ends_with('/') { "/" } else { "" };
    Ok(format!("/{}{end}", encode(segments.join("/").as_bytes(), true)))
}

/// Returns the parameters of the query, encoded and sorted.
fn query(sent: &str) -> Result<String, AwsRefusal> {
    let mut pairs = Vec::new();
    for part in sent.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        pairs.push((encode(&decode(name)?, false), encode(&decode(value)?, false)));
    }
    pairs.sort_unstable();
    let texts: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(texts.join("&"))
}

/// Decodes the escapes of a path or query.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, AwsRefusal> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(AwsRefusal::Form);
        decoded.push(u8::try_from(digit()? * 16 + digit()?).map_err(|_| AwsRefusal::Form)?);
    }
    Ok(decoded)
}

/// Escapes all bytes but the unreserved characters of RFC 3986, and possibly `/`.
fn encode(bytes: &[u8], slash: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') || (slash && *byte == b'/') {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.extend([byte >> 4, byte & 15].map(|digit| char::from(HEXADECIMAL[usize::from(digit)])));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_encoded_as_the_service_does() {
        for (sent, service, expected) in [
            ("/", "service", "/"),
            ("", "service", "/"),
            ("//", "service", "/"),
            ("/example/..", "service", "/"),
            ("/example1/example2/../..", "service", "/"),
            ("//example//", "service", "/example/"),
            ("/./example", "service", "/example"),
            ("/example space/", "service", "/example%20space/"),
            ("/a%20b/c", "service", "/a%2520b/c"),
            ("/ሴ", "service", "/%E1%88%B4"),
            ("/a%20b//c/../d+e", "s3", "/a%20b//c/../d%2Be"),
            ("/%7euser/a=b", "s3", "/~user/a%3Db"),
        ] {
            assert_eq!(path(sent, service).unwrap(), expected, "{sent} {service}");
        }
        for bad in ["/a%", "/a%2", "/a%zz"] {
            assert!(path(bad, "s3").is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_sorted_and_encoded_once() {
        for (sent, expected) in [
            ("Param2=value2&Param1=value1", "Param1=value1&Param2=value2"),
            ("b=2&a=3&a=1&a", "a=&a=1&a=3&b=2"),
            ("ሴ=bar", "%E1%88%B4=bar"),
            ("list-type=2&prefix=a%2Fb%20c&x=a=b", "list-type=2&prefix=a%2Fb%20c&x=a%3Db"),
            ("&&", ""),
        ] {
            assert_eq!(query(sent).unwrap(), expected, "{sent}");
        }
        assert!(query("a=%x").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_target_is_encoded_or_refused(text in ".{0,80}") {
            if let Ok(path) = path(&text, S3) {
                proptest::prop_assert!(path.is_ascii());
            }
            let _either = query(&text);
        }
    }
}
