//! The trust stores of a sandbox: files with the certificates of the authorities that the gateway trusts, and with the
//! certificate of the sandbox's own authority.

use super::{
    authority::{SandboxAuthority, pem},
    roots::TrustedRoots,
};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use rustls::pki_types::CertificateDer;

/// The password of [`TrustFiles::java`]. The JVM's own trust store has the same one. It only protects the file from damage.
pub const JAVA_PASSWORD: &str = "changeit";

/// The content of the trust stores of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFiles {
    /// Certificates in PEM form, one after another, as OpenSSL, GnuTLS and most other libraries read them.
    pub pem: Vec<u8>,
    /// The same certificates as a Java key store (JKS).
    pub java: Vec<u8>,
}

impl TrustFiles {
    /// Collects the certificates.
    pub fn new(roots: &TrustedRoots, authority: &SandboxAuthority) -> Self {
        let all = || std::iter::once(authority.certificate()).chain(roots.certificates());
        Self { pem: all().map(|certificate| pem(certificate)).collect::<String>().into_bytes(), java: java(&mut all()) }
    }
}

/// Writes a key store of the JVM (`sun.security.provider.JavaKeyStore` of OpenJDK, version 2 of the format).
fn java(certificates: &mut dyn Iterator<Item = &CertificateDer<'_>>) -> Vec<u8> {
    const MAGIC: u32 = 0xfeed_feed;
    const TRUSTED: u32 = 2;
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let text = |text: &str| [&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()[..], text.as_bytes()].concat();
    let (mut entries, mut count) = (Vec::new(), 0);
    for certificate in certificates {
        entries.extend(TRUSTED.to_be_bytes());
        entries.extend(text(&format!("agentd-{count}")));
        // The time of the entry, which no program uses.
        entries.extend(0_u64.to_be_bytes());
        entries.extend(text("X.509"));
        entries.extend(number(certificate.len()));
        entries.extend_from_slice(certificate);
        count += 1;
    }
    let mut store = [&MAGIC.to_be_bytes()[..], &2_u32.to_be_bytes(), &number(count), &entries].concat();
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    JAVA_PASSWORD.encode_utf16().for_each(|unit| digest.update(&unit.to_be_bytes()));
    digest.update(b"Mighty Aphrodite");
    digest.update(&store);
    store.extend_from_slice(digest.finish().as_ref());
    store
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, process::Command};

    fn files() -> TrustFiles {
        let (own, other) = (SandboxAuthority::new().unwrap(), SandboxAuthority::new().unwrap());
        TrustFiles::new(&TrustedRoots::from_pem(other.certificate_pem().as_bytes()).unwrap(), &own)
    }

    #[test]
    fn bundle_has_the_authority_of_the_sandbox_and_those_of_the_host() {
        assert_eq!(TrustedRoots::from_pem(&files().pem).unwrap().certificates().len(), 2);
    }

    #[test]
    fn key_store_has_both_certificates_and_is_read_by_a_jvm() {
        let store = files().java;
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 2]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&store).unwrap();
        // Not every machine has a JVM.
        let listed = Command::new("keytool").args(["-list", "-storepass", JAVA_PASSWORD, "-keystore"]).arg(file.path()).output();
        let Ok(listed) = listed else { return };
        let text = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.status.success() && text.contains("agentd-0") && text.contains("agentd-1"), "{text}");
    }
}
