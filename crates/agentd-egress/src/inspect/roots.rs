//! The authorities with which servers' certificates are verified.

use super::error::InspectionError;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::sync::Arc;

/// The authorities that the gateway trusts for the certificates of servers, independent of the authorities that the sandbox
/// trusts.
#[derive(Debug, Clone)]
pub struct TrustedRoots {
    store: Arc<RootCertStore>,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl TrustedRoots {
    /// Reads the trust store of the host, at the places where OpenSSL looks.
    ///
    /// # Errors
    /// The host has no certificate that can be read.
    pub fn host() -> Result<Self, InspectionError> {
        let found = rustls_native_certs::load_native_certs();
        let error = found.errors.first().map(ToString::to_string);
        Self::some(found.certs).ok_or_else(|| InspectionError::Roots(error.unwrap_or_else(|| "no certificate".to_owned())))
    }

    /// Reads the certificates of a text in PEM form, and trusts no others.
    ///
    /// # Errors
    /// The text has no certificate, or a damaged one.
    pub fn from_pem(pem: &[u8]) -> Result<Self, InspectionError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| InspectionError::Roots(error.to_string()))?;
        Self::some(found).ok_or_else(|| InspectionError::Roots("no certificate".to_owned()))
    }

    /// Keeps the usable certificates. Fails if there is none.
    fn some(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        let mut store = RootCertStore::empty();
        let usable = certificates.into_iter().filter(|certificate| store.add(certificate.clone()).is_ok());
        let certificates: Arc<[_]> = usable.collect();
        (!certificates.is_empty()).then(|| Self { store: Arc::new(store), certificates })
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        self.store.clone()
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::authority::SandboxAuthority;
    use std::{env, io::Write as _, process::Command};

    const EXPECTED: &str = "EXPECTED_ROOTS";

    #[test]
    fn trust_store_of_the_host_is_found_where_openssl_looks() {
        let authority = SandboxAuthority::new().unwrap();
        for (pem, found) in [(authority.certificate_pem(), "1"), (String::new(), "0")] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(pem.as_bytes()).unwrap();
            // The variable must not change in a process with threads.
            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["--exact", "inspect::roots::tests::count_roots_of_the_host", "--ignored"]);
            child.env("SSL_CERT_FILE", file.path()).env_remove("SSL_CERT_DIR").env(EXPECTED, found);
            let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
            assert!(output.contains("1 passed"), "{output}");
        }
    }

    #[test]
    #[ignore = "the test above starts this one with a trust store"]
    fn count_roots_of_the_host() {
        let found = TrustedRoots::host().map_or(0, |roots| roots.store().len());
        assert_eq!(found.to_string(), env::var(EXPECTED).unwrap());
    }

    #[test]
    fn text_without_a_certificate_is_refused() {
        for pem in
            [&b""[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"-----BEGIN CERTIFICATE-----\n!"]
        {
            assert!(matches!(TrustedRoots::from_pem(pem), Err(InspectionError::Roots(_))), "{pem:?}");
        }
    }
}
