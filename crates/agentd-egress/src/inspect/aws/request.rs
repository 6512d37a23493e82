//! Reads the signature of a request from the sandbox.

use super::{
    ALGORITHM, CONTENT_HASH, DATE,
    canonical::{Scope, decode},
    time,
};
use crate::inspect::error::AwsRefusal;
use hyper::{
    HeaderMap,
    header::{self, HeaderName},
    http::request::Parts,
};
use std::time::SystemTime;

/// The digest of an empty body (FIPS 180-4).
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Words instead of a digest, which leave the body unsigned.
const UNSIGNED: [&str; 2] = ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"];
/// The beginning of the words for bodies whose parts have signatures of their own.
const STREAMING: &str = "STREAMING-";
/// Parameters of a query that is a credential, in lower case.
const PRESIGNED: [&[u8]; 5] =
    [b"x-amz-signature", b"x-amz-credential", b"x-amz-algorithm", b"x-amz-security-token", b"awsaccesskeyid"];
/// The maximum number of signed headers.
const MAX_SIGNED: usize = 64;

/// The parts of the header `Authorization`.
pub(super) struct Authorization<'a> {
    pub(super) id: &'a str,
    pub(super) scope: Scope<'a>,
    headers: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// Reads the header. Returns `None` for every other form.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let credential: Vec<&str> = credential?.split('/').collect();
        let [id, day, region, service, "aws4_request"] = credential[..] else { return None };
        Some(Self { id, scope: Scope { day, region, service }, headers: headers?, signature: signature? })
    }
}

/// The parts of a signed request that the signature of the gateway repeats.
#[derive(Debug)]
pub(crate) struct SignedRequest {
    /// The names of the signed headers, in lower case and sorted.
    pub(super) headers: Vec<String>,
    pub(super) time: String,
    /// The digest of the body, or the word that stands for it.
    pub(super) payload: String,
}

impl SignedRequest {
    /// Reads what the sandbox has signed.
    ///
    /// # Errors
    /// The gateway cannot sign such a request.
    pub(super) fn read(
        authorization: &Authorization<'_>,
        parts: &Parts,
        has_body: bool,
        now: SystemTime,
    ) -> Result<Self, AwsRefusal> {
        let headers: Vec<String> = authorization.headers.split(';').map(str::to_owned).collect();
        let sorted = headers.is_sorted_by(|a, b| a < b) && headers.len() <= MAX_SIGNED;
        let has = |name: &HeaderName| headers.iter().any(|signed| signed == name.as_str());
        let lower = headers.iter().all(|name| !name.is_empty() && name.bytes().all(|byte| !byte.is_ascii_uppercase()));
        if !sorted || !lower || !has(&header::HOST) || !has(&DATE) || has(&header::AUTHORIZATION) {
            return Err(AwsRefusal::Form);
        }
        let time = only(&parts.headers, &DATE)?.ok_or(AwsRefusal::Time)?;
        if !time::is_current(time, now) || !time.starts_with(authorization.scope.day) || authorization.scope.day.len() != 8 {
            return Err(AwsRefusal::Time);
        }
        let payload = match only(&parts.headers, &CONTENT_HASH)? {
            Some(word) if UNSIGNED.contains(&word) => word,
            Some(word) if word.starts_with(STREAMING) => return Err(AwsRefusal::Chunked),
            Some(digest) if digest.len() == EMPTY.len() && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => digest,
            Some(_) => return Err(AwsRefusal::Form),
            None if has_body => return Err(AwsRefusal::Digest),
            None => EMPTY,
        };
        Ok(Self { headers, time: time.to_owned(), payload: payload.to_owned() })
    }

    /// Returns the day of the request.
    pub(super) fn day(&self) -> &str {
        self.time.get(..8).unwrap_or_default()
    }
}

/// Returns the value of a header that occurs at most once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, AwsRefusal> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(AwsRefusal::Form);
    }
    first.to_str().map(Some).map_err(|_| AwsRefusal::Form)
}

/// Refuses a request whose query is a credential.
///
/// # Errors
/// The query has a parameter of a signature, or cannot be decoded.
pub(super) fn not_presigned(parts: &Parts) -> Result<(), AwsRefusal> {
    for part in parts.uri.query().unwrap_or_default().split('&') {
        let name = decode(part.split('=').next().unwrap_or(part))?.to_ascii_lowercase();
        if PRESIGNED.contains(&name.as_slice()) {
            return Err(AwsRefusal::Presigned);
        }
    }
    Ok(())
}
