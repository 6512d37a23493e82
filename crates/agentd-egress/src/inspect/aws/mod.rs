//! Keys of AWS: the sandbox signs its requests with placeholders, and the gateway signs them again with the real key.
//!
//! The form is that of "AWS Signature Version 4" (SigV4) in the header `Authorization`. `request` reads what the sandbox signed,
//! and checks the signature of the placeholder. `canonical` computes the text that is signed. `time` reads the time of a request.
//! A signature depends on the secret, so the secret itself is in no request.

mod canonical;
mod request;
mod time;

use super::{
    error::{AwsRefusal, InspectRefusal, InspectionError},
    secret::{MIN_VALUE, Placeholder, SecretHost},
};
use canonical::{Canonical, Scope};
use hyper::{
    Version,
    header::{self, HeaderName, HeaderValue},
    http::request::Parts,
};
use std::time::SystemTime;
use zeroize::Zeroizing;

pub(crate) use request::SignedRequest;

const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// The beginning of the names of headers that must be signed.
const OWN_HEADERS: &str = "x-amz-";
/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The beginning of the placeholder of an access key ID.
const ID_PREFIX: &str = "AKIA";

/// The region and the service for which a key may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsScope {
    /// The region, such as `eu-west-1`.
    pub region: String,
    /// The service, such as `s3`.
    pub service: String,
}

/// The placeholder that the sandbox has instead of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsPlaceholder {
    /// Instead of the access key ID.
    pub id: Placeholder,
    /// Instead of the secret access key.
    pub secret: Placeholder,
}

impl AwsPlaceholder {
    /// Creates a placeholder.
    ///
    /// # Errors
    /// getrandom(2) fails.
    pub fn random() -> Result<Self, InspectionError> {
        Ok(Self { id: Placeholder::random(ID_PREFIX)?, secret: Placeholder::random("")? })
    }
}

/// A key of AWS for one port of one host. Neither the key nor its parts can be printed. They are zeroed when the key is dropped.
pub struct AwsKey {
    placeholder: AwsPlaceholder,
    id: Zeroizing<Vec<u8>>,
    secret: Zeroizing<Vec<u8>>,
    token: Option<Zeroizing<Vec<u8>>>,
    host: SecretHost,
    scope: AwsScope,
}

impl AwsKey {
    /// Takes over a key, whose text form is `ID:SECRET` or `ID:SECRET:TOKEN`.
    ///
    /// # Errors
    /// The text is malformed, or a part of it cannot be masked or sent in a header.
    pub fn new(placeholder: AwsPlaceholder, value: &str, host: SecretHost, scope: AwsScope) -> Result<Self, InspectionError> {
        let parts: Vec<_> = value.splitn(3, ':').map(|part| Zeroizing::new(part.as_bytes().to_vec())).collect();
        let (id, secret, token) = match <[_; 2]>::try_from(parts) {
            Ok([id, secret]) => (id, secret, None),
            Err(parts) => match <[_; 3]>::try_from(parts) {
                Ok([id, secret, token]) => (id, secret, Some(token)),
                Err(_) => return Err(InspectionError::AwsForm { host: host.name }),
            },
        };
        let usable = |part: &Zeroizing<Vec<u8>>| part.len() >= MIN_VALUE && part.iter().all(u8::is_ascii_graphic);
        // The text form of a request separates its parts by `/`, `,` and spaces.
        let plain = id.iter().all(u8::is_ascii_alphanumeric);
        if !plain || ![Some(&id), Some(&secret), token.as_ref()].into_iter().flatten().all(usable) {
            return Err(InspectionError::AwsForm { host: host.name });
        }
        Ok(Self { placeholder, id, secret, token, host, scope })
    }

    /// Returns the host that may receive requests with the key.
    pub fn host(&self) -> &SecretHost {
        &self.host
    }

    /// Returns the parts that no response may contain.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Vec<u8>> {
        [Some(&self.id), Some(&self.secret), self.token.as_ref()].into_iter().flatten().map(|part| &**part)
    }

    /// Signs a request as it will be sent.
    ///
    /// # Errors
    /// The request has a query that cannot be decoded.
    pub(crate) fn sign(&self, request: &SignedRequest, host: &str, parts: &mut Parts) -> Result<(), InspectRefusal> {
        if let Some(token) = &self.token {
            parts.headers.insert(TOKEN, sensitive(token)?);
        }
        parts.headers.remove(header::AUTHORIZATION);
        let mut names: Vec<&str> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.retain(|name| name.starts_with(OWN_HEADERS) || request.headers.iter().any(|signed| signed == name));
        if !names.contains(&header::HOST.as_str()) {
            names.push(header::HOST.as_str());
        }
        names.sort_unstable();
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let scope = self.scope(request.day());
        let canonical = Canonical { parts, host: host.as_bytes(), headers: &names, payload: &request.payload, scope: &scope };
        let signature = canonical.signature(&request.time, &self.secret)?;
        let id = std::str::from_utf8(&self.id).unwrap_or_default();
        let value = Zeroizing::new(format!(
            "{ALGORITHM} Credential={id}/{scope}, SignedHeaders={}, Signature={signature}",
            names.join(";")
        ));
        parts.headers.insert(header::AUTHORIZATION, sensitive(value.as_bytes())?);
        Ok(())
    }

    fn scope<'a>(&'a self, day: &'a str) -> Scope<'a> {
        Scope { day, region: &self.scope.region, service: &self.scope.service }
    }
}

/// Returns a value that is hidden from debug output, and never put into the table of HPACK.
fn sensitive(bytes: &[u8]) -> Result<HeaderValue, AwsRefusal> {
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| AwsRefusal::Form)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads and checks the request of the sandbox, as it was sent. Returns the key with which it must be signed, or `None` if the
/// request has no signature.
///
/// # Errors
/// The request has another credential, or a signature that no key may replace.
pub(crate) fn check<'a>(
    keys: &[&'a AwsKey],
    parts: &Parts,
    has_body: bool,
    now: SystemTime,
) -> Result<Option<(&'a AwsKey, SignedRequest)>, InspectRefusal> {
    if keys.is_empty() {
        return Ok(None);
    }
    request::not_presigned(parts)?;
    let own = || InspectRefusal::Credential { header: header::AUTHORIZATION.to_string() };
    if parts.headers.contains_key(TOKEN) {
        return Err(InspectRefusal::Credential { header: TOKEN.to_string() });
    }
    let mut sent = parts.headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = sent.next() else { return Ok(None) };
    let authorization = first.to_str().ok().filter(|_| sent.next().is_none()).and_then(request::Authorization::read);
    let authorization = authorization.ok_or_else(own)?;
    let key = keys.iter().copied().find(|key| key.placeholder.id.to_string() == authorization.id).ok_or_else(own)?;
    let request = SignedRequest::read(&authorization, parts, has_body, now)?;
    let AwsScope { region, service } = &key.scope;
    if (authorization.scope.region, authorization.scope.service) != (region.as_str(), service.as_str()) {
        return Err(AwsRefusal::Scope { region: region.clone(), service: service.clone() }.into());
    }
    let host = if parts.version == Version::HTTP_2 { parts.uri.authority().map(|host| host.as_str().as_bytes()) } else { None };
    let host = host.or_else(|| parts.headers.get(header::HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
    let scope = key.scope(request.day());
    let canonical = Canonical { parts, host, headers: &request.headers, payload: &request.payload, scope: &scope };
    let expected = canonical.signature(&request.time, key.placeholder.secret.to_string().as_bytes())?;
    if authorization.signature != expected {
        return Err(AwsRefusal::Signature.into());
    }
    Ok(Some((key, request)))
}

#[cfg(test)]
mod tests;
