//! The proof that both ends of a connection have the key of the user, without sending it.
//!
//! Each side chooses a random number. Each side then sends a MAC of both numbers under the key, the daemon first. The side is
//! part of the MAC, so that a MAC of one side is not valid for the other. Both numbers are part of the MAC, so that it is valid
//! for one connection only.

use crate::{key::Key, protocol::VERSION};
use hmac::{
    Hmac, KeyInit, Mac,
    digest::{CtOutput, Key as Block},
};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::io;
use zeroize::Zeroizing;

type HmacSha256 = Hmac<Sha256>;

/// The purpose of the MAC, so that no MAC of the same key for another purpose is valid.
const PURPOSE: &[u8] = b"agentd daemon connection";

const LENGTH: usize = 32;

/// The random number of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nonce([u8; LENGTH]);

impl Nonce {
    /// The value that a client sends if it needs no proof of the daemon. [`Nonce::random`] never returns it.
    pub(crate) const NONE: Self = Self([0; LENGTH]);

    /// Chooses a number.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        fill_randomly(&mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Fills `bytes` with random bytes, at least one of which is not zero.
pub(crate) fn fill_randomly(bytes: &mut [u8]) -> io::Result<()> {
    while bytes.iter().all(|byte| *byte == 0) {
        let mut done = 0;
        while done < bytes.len() {
            done += getrandom(&mut bytes[done..], GetRandomFlags::empty())?;
        }
    }
    Ok(())
}

/// One side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Daemon,
}

/// The MAC by which a side proves that it has the key.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Tag([u8; LENGTH]);

impl Tag {
    /// A placeholder, from which the receiver computes the length of an `Answer`. No MAC is compared with it.
    pub(crate) const NONE: Self = Self([0; LENGTH]);

    /// Compares two MACs in a time that does not depend on their bytes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let of = |tag: &Self| CtOutput::<HmacSha256>::new(tag.0.into());
        of(self) == of(other)
    }
}

/// The numbers of both sides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nonces {
    pub client: Nonce,
    pub daemon: Nonce,
}

impl Nonces {
    /// Computes the MAC of one side. All parts have a fixed length.
    pub(crate) fn tag(&self, key: &Key, side: Side) -> Tag {
        // HMAC appends zeros to a key that is shorter than a block (RFC 2104, section 2).
        let mut block = Zeroizing::new([0; 64]);
        block[..LENGTH].copy_from_slice(key.bytes());
        let mut mac = HmacSha256::new(<&Block<HmacSha256>>::from(&*block));
        let role: &[u8] = match side {
            Side::Client => b"client",
            Side::Daemon => b"daemon",
        };
        for part in [PURPOSE, &VERSION.to_le_bytes(), role, &self.client.0, &self.daemon.0] {
            mac.update(part);
        }
        Tag(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonces() -> Nonces {
        Nonces { client: Nonce::random().unwrap(), daemon: Nonce::random().unwrap() }
    }

    #[test]
    fn tag_is_an_hmac_of_all_parts() {
        let (key, nonces) = (Key::random().unwrap(), nonces());
        let mut mac = HmacSha256::new_from_slice(key.bytes()).unwrap();
        mac.update(PURPOSE);
        mac.update(&[u8::try_from(VERSION).unwrap(), 0, 0, 0]);
        mac.update(b"daemon");
        mac.update(&[nonces.client.0, nonces.daemon.0].concat());
        mac.verify_slice(&nonces.tag(&key, Side::Daemon).0).unwrap();
    }

    #[test]
    fn tag_is_valid_only_for_its_key_its_side_and_its_connection() {
        let (key, own) = (Key::random().unwrap(), nonces());
        let tag = own.tag(&key, Side::Client);
        assert!(tag.is(&own.tag(&key, Side::Client)));
        let exchanged = Nonces { client: own.daemon, daemon: own.client };
        let same = Nonces { client: own.client, daemon: own.client };
        for (what, other) in [
            ("another key", own.tag(&Key::random().unwrap(), Side::Client)),
            ("the other side", own.tag(&key, Side::Daemon)),
            ("exchanged numbers, the other side", exchanged.tag(&key, Side::Daemon)),
            ("exchanged numbers", exchanged.tag(&key, Side::Client)),
            ("the number of the client sent back", same.tag(&key, Side::Client)),
            ("another connection", nonces().tag(&key, Side::Client)),
            ("the numbers themselves", Tag(own.client.0)),
        ] {
            assert!(!tag.is(&other), "{what}");
        }
        for place in 0..LENGTH {
            let mut other = tag;
            other.0[place] ^= 1;
            assert!(!tag.is(&other), "byte {place}");
        }
    }
}
