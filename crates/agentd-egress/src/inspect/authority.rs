//! The certificate authority of one sandbox, with which the gateway presents itself as a granted server.
//!
//! The private key exists only in the memory of this process, and is zeroed when the authority is dropped. `ring` reads the key
//! again for each signature; the copies that it makes on the stack are not zeroed.

use super::error::InspectionError;
use crate::name::HostName;
use data_encoding::{BASE64, HEXLOWER};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::{
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use zeroize::Zeroizing;

/// The number of certificates that are kept. Certificates of further names replace the oldest ones.
const MAX_LEAVES: usize = 256;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The time by which certificates are backdated, because the clock of a client may be slow.
const BACKDATED: Duration = DAY;
/// The time for which the authority is valid: as long as a sandbox may exist.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The time for which a server's certificate is valid. Some clients refuse more than 398 days.
const LEAF_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// A certificate is used for this time, then replaced.
const LEAF_USED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The certificate authority of one sandbox.
pub struct SandboxAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, EcdsaKey>,
    /// The key of all certificates of servers.
    leaf: EcdsaKey,
    leaf_signer: Arc<dyn rustls::sign::SigningKey>,
    leaves: Mutex<Leaves>,
}

#[derive(Default)]
struct Leaves {
    by_name: HashMap<HostName, (SystemTime, Arc<CertifiedKey>)>,
    /// The names, the oldest first.
    order: VecDeque<HostName>,
}

/// A key pair of ECDSA on P-256.
struct EcdsaKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl EcdsaKey {
    fn new() -> Result<Self, InspectionError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| InspectionError::Key)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        let public = Self::read(&pkcs8).map_err(|_| InspectionError::Key)?.public_key().as_ref().to_vec();
        Ok(Self { pkcs8, public })
    }

    fn read(pkcs8: &[u8]) -> Result<EcdsaKeyPair, ring::error::KeyRejected> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
    }
}

impl PublicKeyData for EcdsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for EcdsaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let key = Self::read(&self.pkcs8).map_err(|error| rcgen::Error::RingKeyRejected(error.to_string()))?;
        let signature = key.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl SandboxAuthority {
    /// Creates an authority with a new key.
    ///
    /// # Errors
    /// The system returns no random bytes.
    pub fn new() -> Result<Self, InspectionError> {
        let (key, leaf) = (EcdsaKey::new()?, EcdsaKey::new()?);
        let mut params = params(AUTHORITY_VALIDITY)?;
        // Two authorities in one trust store must have different names.
        let title = format!("agentd sandbox authority {}", HEXLOWER.encode(&random::<4>()?));
        params.distinguished_name.push(DnType::CommonName, title);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        let leaf_signer = any_ecdsa_type(&PrivatePkcs8KeyDer::from(leaf.pkcs8.as_slice()).into())?;
        Ok(Self { certificate, issuer: Issuer::new(params, key), leaf, leaf_signer, leaves: Mutex::default() })
    }

    /// Returns the certificate in PEM form, for the trust store of the sandbox.
    pub fn certificate_pem(&self) -> String {
        pem(&self.certificate)
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the certificate of a server with this name.
    pub(crate) fn leaf(&self, name: &HostName) -> Result<Arc<CertifiedKey>, InspectionError> {
        let now = SystemTime::now();
        if let Some((until, leaf)) = self.leaves().by_name.get(name)
            && now < *until
        {
            return Ok(leaf.clone());
        }
        let leaf = Arc::new(CertifiedKey::new(vec![self.issue(name)?], self.leaf_signer.clone()));
        let mut leaves = self.leaves();
        if leaves.by_name.insert(name.clone(), (now + LEAF_USED, leaf.clone())).is_none() {
            leaves.order.push_back(name.clone());
        }
        if leaves.order.len() > MAX_LEAVES
            && let Some(oldest) = leaves.order.pop_front()
        {
            leaves.by_name.remove(&oldest);
        }
        Ok(leaf)
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, Leaves> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, name: &HostName) -> Result<CertificateDer<'static>, InspectionError> {
        let mut params = params(LEAF_VALIDITY)?;
        // RFC 5280, A.1: a common name has at most 64 characters. Clients look at the alternative name.
        let title = if name.as_str().len() <= 64 { name.as_str() } else { "agentd" };
        params.distinguished_name.push(DnType::CommonName, title);
        params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&self.leaf, &self.issuer)?.der().clone())
    }
}

impl fmt::Debug for SandboxAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxAuthority").finish_non_exhaustive()
    }
}

/// Returns the parameters of a certificate that is valid from now on. The serial number must differ between certificates with the
/// same key.
fn params(lasts: Duration) -> Result<CertificateParams, InspectionError> {
    let mut params = CertificateParams::default();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + since_epoch;
    params.not_before = now - BACKDATED;
    params.not_after = now + lasts;
    params.distinguished_name = DistinguishedName::new();
    let mut serial = random::<16>()?;
    // RFC 5280, 4.1.2.2: a positive number.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn random<const N: usize>() -> Result<[u8; N], InspectionError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| InspectionError::Key)?;
    Ok(bytes)
}

/// RFC 7468.
pub(crate) fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::roots::TrustedRoots;
    use rustls::{
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        pki_types::{ServerName, UnixTime},
    };

    fn verify(trusted: &SandboxAuthority, leaf: &CertifiedKey, name: &str) -> bool {
        let roots = TrustedRoots::from_pem(trusted.certificate_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.store(), provider).build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&leaf.cert[0], &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn certificate_is_valid_for_its_name_below_its_own_authority_only() {
        let (own, other) = (SandboxAuthority::new().unwrap(), SandboxAuthority::new().unwrap());
        let leaf = own.leaf(&"a.example".parse().unwrap()).unwrap();
        assert!(verify(&own, &leaf, "a.example"));
        assert!(!verify(&own, &leaf, "b.example"));
        assert!(!verify(&other, &leaf, "a.example"));
        let long = format!("{}.{}.example", "x".repeat(60), "y".repeat(60));
        assert!(verify(&own, &own.leaf(&long.parse().unwrap()).unwrap(), &long));
    }

    #[test]
    fn certificates_are_kept_up_to_the_bound_and_have_serial_numbers_of_their_own() {
        let authority = SandboxAuthority::new().unwrap();
        let leaf = |number: usize| authority.leaf(&format!("x{number}.example").parse().unwrap()).unwrap();
        let first = leaf(0);
        assert!(Arc::ptr_eq(&first, &leaf(0)));
        for number in 1..=MAX_LEAVES {
            leaf(number);
        }
        assert_eq!(authority.leaves().by_name.len(), MAX_LEAVES);
        assert_eq!(authority.leaves().order.len(), MAX_LEAVES);
        let again = leaf(0);
        assert!(!Arc::ptr_eq(&first, &again), "the oldest one was displaced");
        assert_ne!(first.cert[0], again.cert[0]);
    }
}
