//! The envelope of a receipt (DSSE, <https://github.com/secure-systems-lab/dsse>).

use super::ReceiptError;
use crate::{
    base64, json,
    key_ring::{KeyRing, PublicKey},
    note::Signer,
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// The media type of an in-toto statement.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
}

impl Envelope {
    pub fn sign(payload: &[u8], signer: &Signer) -> Self {
        let signature =
            Signature { keyid: signer.verifier().key_id().to_string(), sig: BASE64.encode(&signer.sign(&signed_bytes(payload))) };
        Self { payload: BASE64.encode(payload), payload_type: PAYLOAD_TYPE.to_owned(), signatures: vec![signature] }
    }

    pub fn to_text(&self) -> Result<String, ReceiptError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| ReceiptError::Envelope(error.into()))?;
        Ok(text + "\n")
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        json::parse(bytes).map_err(ReceiptError::Envelope)
    }

    /// Returns the payload and the key that has signed it.
    pub fn verify(self, ring: &KeyRing) -> Result<(Vec<u8>, &PublicKey), ReceiptError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(ReceiptError::PayloadType(self.payload_type));
        }
        let decode = |text: &str, what| base64::decode(text).ok_or(ReceiptError::Base64(what));
        let [Signature { keyid, sig }] = &self.signatures[..] else {
            return Err(ReceiptError::Signatures(self.signatures.len()));
        };
        let (payload, signature) = (decode(&self.payload, "the payload")?, decode(sig, "the signature")?);
        let is_named = |key: &&PublicKey| key.verifier.key_id().to_string() == *keyid;
        let key = ring.keys().iter().find(is_named).ok_or_else(|| ReceiptError::UnknownKey(keyid.clone()))?;
        if !key.verifier.has_signed(&signed_bytes(&payload), &signature) {
            return Err(ReceiptError::Signature(key.verifier.key_id().clone()));
        }
        Ok((payload, key))
    }
}

/// Returns the bytes that are signed: the pre-authentication encoding of DSSE.
fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
