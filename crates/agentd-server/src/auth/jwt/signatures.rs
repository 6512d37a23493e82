//! Verifies the signatures of JSON Web Tokens by ring. Asymmetric algorithms only: a public key is never the secret of an HMAC.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
    signature::{Error, Verifier},
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: verifier,
    // Thumbprints and PEM, which nothing here uses.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes the library verify by ring. A program that has chosen another provider before keeps its own.
pub(super) fn use_ring() {
    let _ = RING.install_default();
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if algorithm.family() == AlgorithmFamily::Hmac || algorithm.family() != key.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }))
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn curve(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    match algorithm {
        Algorithm::ES256 => Some(&ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Some(&ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Some(&ED25519),
        _ => None,
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let verified = match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let parameters = rsa(self.algorithm).ok_or_else(Error::new)?;
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            DecodingKeyKind::SecretOrDer(point) => {
                let algorithm = curve(self.algorithm).ok_or_else(Error::new)?;
                UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64URL_NOPAD;

    /// A public key of RSA, and two signatures of `header.payload` that OpenSSL has made. The private key was deleted.
    const MODULUS: &str = "yPj-DsXHCdAQlmcISir-\
        yaHLwp8xNE0HlVwrNF9PZQ0C0tQkE9NNlJDt6IsKcJ0bbfnyY_FLl9vEXhKOCGCsUe72t-C01VLHQMPZAqtNRqz8sCpPLngQd-LAvWsrtr2Ehz\
        5lyg0I70ENn0VDzoG9czE2M1uyVsWrRRvsrWkvB3db5ZfteV1anSrgzBJa4tGYOvlcAewy8n4ph4cXPDuJq3WZi4TUaduqy-\
        70yAIEq456aeBMKcl4NRbA9sKUibN45JEjoNkGosuvl41EkHf_2On8gx2FfljlGg3SNo77Vg2-\
        HNufvZ1ADouKDXZri4C_nXEi172OnxHBhclOpvL3bw";
    const RS256: &str = "rDSN1pqf5kFQ8BQJj2ZDOC8iFpJUMB9AzwbYhctyJz4jX0aMlaJhfxf-dZ7oTCNaChqQm1qYWugnwu2kkFvXw4F_FEwxN6kbqp5vUQJMsoNhZl\
        5Vu8YonbT_0bsr7I9KNQzHZx8GGtMD4s2bxcgGBTj1TGgN75Woixah8Ta9RsGHZJU2BOF2L1gCJqwYD7Yzq8EL3iwSMRkQcZw6GYSKomAfl3xe\
        SvruCaAHeZSJeZaafdG854AtaVXq9o20kwsxi2e51OCxoPSJldrtZ7NUmhhSodNknuCYwAIb0oljJqWJh9xqSmWrvHJijJEbDt07d2j1OrrsGo\
        kpS5YYjppVtQ";
    const PS256: &str = "vrJxKDyEgjeS19rWiPIJCuyEmbDNc3tb_fGL-\
        S7adqFD9wLhT4taTJvHNkTrnfaDQ_xilCaGXp66feJueKKdn3DQV29iJu4YsEz3baqdYrgqiJ3QW9psmg4FeLIr1YA2mv9BJ_UBcxPJkUH54d4\
        BSgVehr7lWZYtAJC2in_2Uk93p9j4oLeS3WgWIGINAnGXtZC4eulaG3hcMdn-lhj75I6F4Np2bgnu-\
        LANC3sMqrrZmp5ni6kk2RqGRGmmUgOUFprotSKCjMUdMQD0xKLnKndTO6LVBCtIFflGP5rG84uPaatd4VB9pYeKBOZpZXV-\
        dOIhxVlB59Z49qpm-xcgFQ";

    fn verifies(algorithm: Algorithm, key: &DecodingKey, message: &[u8], signature: &str) -> bool {
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        verifier(&algorithm, key).is_ok_and(|verifier| verifier.verify(message, &signature).is_ok())
    }

    #[test]
    fn signatures_of_rsa_are_verified_by_their_own_algorithm_only() {
        let key = DecodingKey::from_rsa_components(MODULUS, "AQAB").unwrap();
        assert!(verifies(Algorithm::RS256, &key, b"header.payload", RS256));
        assert!(verifies(Algorithm::PS256, &key, b"header.payload", PS256));
        assert!(!verifies(Algorithm::RS256, &key, b"header.payloae", RS256));
        for (algorithm, signature) in [
            (Algorithm::PS256, RS256),
            (Algorithm::RS256, PS256),
            (Algorithm::RS384, RS256),
            (Algorithm::RS512, RS256),
            (Algorithm::ES256, RS256),
            (Algorithm::EdDSA, RS256),
            (Algorithm::HS256, RS256),
        ] {
            assert!(!verifies(algorithm, &key, b"header.payload", signature), "{algorithm:?}");
        }
    }

    #[test]
    fn public_key_is_no_secret_of_an_hmac() {
        let secret = DecodingKey::from_secret(MODULUS.as_bytes()).unwrap();
        assert!(verifier(&Algorithm::HS256, &secret).is_err());
        assert!(verifier(&Algorithm::RS256, &secret).is_err());
    }
}
