//! Certificates of clients, as credentials. A certificate names a service by its only URI (RFC 5280, section 4.2.1.6), as SPIFFE
//! does.

use agentd_records::Label;
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};
use webpki::EndEntityCert;

/// The verifier of clients' certificates that is in force. Clones share it, and it can be replaced.
#[derive(Debug, Clone)]
pub struct ClientAuthorities(Arc<RwLock<Arc<dyn ClientCertVerifier>>>);

/// The certificate with which a client has established TLS.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, followed by those of the authorities below the root.
    chain: Arc<[CertificateDer<'static>]>,
    authorities: ClientAuthorities,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({:?})", self.chain.first().and_then(|certificate| name(certificate).ok()))
    }
}

impl ClientAuthorities {
    /// Returns authorities that verify by `verifier`.
    pub fn new(verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self(Arc::new(RwLock::new(verifier)))
    }

    /// Verifies by another verifier from now on, also for connections that exist.
    pub fn replace(&self, verifier: Arc<dyn ClientCertVerifier>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = verifier;
    }

    /// Returns the verifier in force.
    pub fn current(&self) -> Arc<dyn ClientCertVerifier> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientCertificate {
    /// Returns the certificate of a connection; `None` without one.
    pub fn of(chain: Option<&[CertificateDer<'static>]>, authorities: Option<ClientAuthorities>) -> Option<Self> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        Some(Self { chain: chain.into(), authorities: authorities? })
    }

    /// Returns the name of the service. The certificate is verified again for each request, because a connection may outlast it,
    /// and the authorities may have been replaced.
    ///
    /// # Errors
    /// Why the certificate is refused, for the log.
    pub(super) fn service(&self) -> Result<String, &'static str> {
        let [certificate, intermediates @ ..] = &*self.chain else { return Err("no certificate") };
        let verified = self.authorities.current().verify_client_cert(certificate, intermediates, UnixTime::now());
        verified.map_err(|_| "the certificate has expired, or its authority is not trusted any more")?;
        name(certificate)
    }
}

/// Returns the only URI of a certificate.
fn name(certificate: &CertificateDer<'_>) -> Result<String, &'static str> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| "the certificate is malformed")?;
    let mut uris = parsed.valid_uri_names();
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err("the certificate has not exactly one URI") };
    // Names of keys have no colon, so no certificate names the service of a key.
    let is_name = uri.contains("://") && Label::try_from(format!("service:{uri}")).is_ok();
    if is_name { Ok(uri.to_owned()) } else { Err("the URI of the certificate is no name of at most 504 bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn named(names: Vec<SanType>) -> Result<String, &'static str> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        name(made.der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn certificate_names_a_service_by_its_only_uri() {
        let dns = || SanType::DnsName("ci".try_into().unwrap());
        assert_eq!(named(vec![dns(), uri("spiffe://a.example/ci")]).unwrap(), "spiffe://a.example/ci");
        let long = format!("spiffe://{}", "a".repeat(600));
        for names in
            [vec![], vec![dns()], vec![uri("ci")], vec![uri("urn:ci")], vec![uri(&long)], vec![uri("a://b"), uri("a://c")]]
        {
            assert!(named(names.clone()).is_err(), "{names:?}");
        }
    }
}
