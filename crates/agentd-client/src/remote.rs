//! Connects to a daemon by TCP, with an API key, a token or a certificate.

use crate::{client::Client, connection::bounded, error::ClientError};
use std::{fmt, net::IpAddr};
use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri},
};

/// How to reach a daemon by TCP.
#[derive(Clone)]
pub struct ClientBuilder {
    url: String,
    key: Option<AsciiMetadataValue>,
    authority: Option<Certificate>,
    identity: Option<Identity>,
}

/// Prints no credential.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    /// Returns a builder for a client of the daemon at a URL: `https://HOST:PORT`, or `http://HOST:PORT` on loopback.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder { url: url.into(), key: None, authority: None, identity: None }
    }
}

impl ClientBuilder {
    /// Sends this API key, or JSON Web Token, with each call. No error or debug form contains the key.
    ///
    /// # Errors
    /// [`ClientError::Key`] if a header cannot contain the key.
    pub fn api_key(self, key: &str) -> Result<Self, ClientError> {
        let mut value: AsciiMetadataValue = format!("Bearer {key}").try_into().map_err(|_| ClientError::Key)?;
        // Also keeps the key out of the table of headers by which HTTP/2 compresses.
        value.set_sensitive(true);
        Ok(Self { key: Some(value), ..self })
    }

    /// Trusts the authorities in this PEM text, instead of those of the host.
    #[must_use]
    pub fn ca_certificate(self, pem: impl AsRef<[u8]>) -> Self {
        Self { authority: Some(Certificate::from_pem(pem)), ..self }
    }

    /// Authenticates by this certificate and its private key, both PEM texts.
    #[must_use]
    pub fn client_certificate(self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Self { identity: Some(Identity::from_pem(certificate, key)), ..self }
    }

    /// Connects. A connection that breaks is made again by the next call.
    ///
    /// # Errors
    /// [`ClientError::Url`] for a URL without TLS whose host is not the loopback interface, because the key and all data would
    /// cross a network as plain text; [`ClientError::Connect`] if there is no daemon, or its certificate is not trusted.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let Self { url, key, authority, identity } = self;
        let uri: Uri = url.parse().map_err(|_| ClientError::Url { url: url.clone() })?;
        let endpoint = bounded(Endpoint::from(uri.clone()));
        let failed = |source| ClientError::Connect { address: url.clone(), source };
        let endpoint = match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => {
                let tls = match authority {
                    Some(authority) => ClientTlsConfig::new().ca_certificate(authority),
                    None => ClientTlsConfig::new().with_native_roots(),
                };
                let tls = match identity {
                    Some(identity) => tls.identity(identity),
                    None => tls,
                };
                endpoint.tls_config(tls).map_err(failed)?
            }
            (Some("http"), Some(host)) if is_loopback(host) => endpoint,
            _ => return Err(ClientError::Url { url }),
        };
        let channel = endpoint.connect().await.map_err(failed)?;
        Ok(Client::new(channel, key))
    }
}

/// Returns true for a host that is the loopback interface.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plain_text_to_other_machines_is_refused_before_anything_is_sent() {
        for url in [
            "http://192.0.2.1:7411",
            "http://agentd.example:7411",
            "http://localhost.example:1",
            "ftp://localhost",
            "localhost",
            "",
        ] {
            let refused = Client::builder(url).api_key("agentd_x").unwrap().connect().await;
            assert!(matches!(refused, Err(ClientError::Url { .. })), "{url}: {refused:?}");
        }
        for (host, expected) in
            [("127.0.0.1", true), ("[::1]", true), ("localhost", true), ("127.0.0.1.example", false), ("[::2]", false)]
        {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn debug_form_has_no_key() {
        let builder = Client::builder("https://localhost").api_key("agentd_secret").unwrap().client_certificate("c", "private");
        let text = format!("{builder:?}");
        let bytes = format!("{:?}", b"private");
        assert!(text.contains("https://localhost") && !text.contains("agentd_secret"), "{text}");
        assert!(!text.contains("private") && !text.contains(&bytes), "{text}");
        assert!(matches!(Client::builder("https://localhost").api_key("a\nb"), Err(ClientError::Key)));
    }
}
