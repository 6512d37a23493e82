//! Reads the credential of a request from its headers.

use http::{HeaderMap, header};

/// The scheme of `Authorization` (RFC 6750).
const SCHEME: &str = "Bearer";

/// The longest credential in bytes.
pub(super) const MAX_CREDENTIAL: usize = 8 << 10;

/// The credential of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'h> {
    /// The request has none.
    None,
    /// The header has another form than `Bearer TEXT`, or occurs twice.
    Malformed,
    /// The text after `Bearer`.
    Bearer(&'h str),
}

impl<'h> Credential<'h> {
    /// Returns the credential in the header `Authorization`, which is a metadata entry of the same name in gRPC.
    pub fn of(headers: &'h HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Self::None };
        if values.next().is_some() || value.len() > MAX_CREDENTIAL + SCHEME.len() + 1 {
            return Self::Malformed;
        }
        let bearer = value.to_str().ok().and_then(|text| text.split_once(' '));
        match bearer {
            Some((scheme, text)) if scheme.eq_ignore_ascii_case(SCHEME) => Self::Bearer(text.trim_matches(' ')),
            _ => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(values: &[&'static str]) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        match Credential::of(&headers) {
            Credential::None => Ok(None),
            Credential::Malformed => Err(()),
            Credential::Bearer(text) => Ok(Some(text.to_owned())),
        }
    }

    #[test]
    fn credential_is_one_bearer_header() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["Bearer k"]), Ok(Some("k".to_owned())));
        assert_eq!(of(&["bearer  k "]), Ok(Some("k".to_owned())));
        for wrong in [&["Bearer k", "Bearer k"][..], &["Basic a2V5"], &["k"], &[""], &["Bearerk"], &["Bearer\tk"]] {
            assert_eq!(of(wrong), Err(()), "{wrong:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert!(Credential::of(&headers) == Credential::Malformed);
        headers.insert(header::AUTHORIZATION, format!("Bearer {}", "a".repeat(9000)).parse().unwrap());
        assert!(Credential::of(&headers) == Credential::Malformed);
    }
}
