//! Entry points of the fuzz targets in `fuzz/`. Each returns how much of its input was valid; its error is an invariant that the
//! input broke.

use crate::{
    checkpoint::Checkpoint,
    key_ring::KeyRing,
    leaf::Leaf,
    log::{ConsistencyProof, InclusionProof},
    merkle::Hash,
    note::{SignedNote, Signer},
    receipt,
    tile::{self, FileKind},
    time::Timestamp,
};
use std::{fmt::Display, str::FromStr};

/// The key that the seeds are signed with.
const SEED: [u8; 32] = [1; 32];
const TIME: &str = "2026-01-01T00:00:00.000000Z";

fn key() -> Result<(Signer, KeyRing), String> {
    let signer = Signer::new("agentd/test", &SEED).map_err(|error| error.to_string())?;
    let ring = KeyRing::parse(format!("{} {TIME}\n", signer.verifier()).as_bytes()).map_err(|error| error.to_string())?;
    Ok((signer, ring))
}

/// Parses notes, checkpoints, proofs and public keys. Each has one text form only.
///
/// # Errors
/// A text was accepted in a second form, or a note was verified that the key of the seeds has not signed.
pub fn note(bytes: &[u8]) -> Result<usize, String> {
    let (signer, ring) = key()?;
    let mut valid = 0;
    if let Ok(text) = std::str::from_utf8(bytes) {
        valid += same::<Checkpoint>(text)? + same::<InclusionProof>(text)? + same::<ConsistencyProof>(text)?;
    }
    if let Ok(ring) = KeyRing::parse(bytes) {
        let again = KeyRing::parse(ring.to_string().as_bytes());
        if again.as_ref() != Ok(&ring) {
            return Err(format!("{ring} became {again:?}"));
        }
        valid += 1;
    }
    let Ok(note) = SignedNote::parse(bytes) else { return Ok(valid) };
    if note.to_string().as_bytes() != bytes {
        return Err(format!("{bytes:?} became {note}"));
    }
    if let Ok((text, _)) = note.verify(ring.verifiers()) {
        let again = SignedNote::sign(text.to_owned(), &[&signer]);
        if again.verify(ring.verifiers()).is_err() {
            return Err(format!("{text:?} was verified, and cannot be signed"));
        }
        valid += 1;
    }
    Ok(valid + 1)
}

fn same<T: FromStr + Display>(text: &str) -> Result<usize, String> {
    match text.parse::<T>() {
        Ok(parsed) if parsed.to_string() == text => Ok(1),
        Ok(parsed) => Err(format!("{text:?} became {parsed}")),
        Err(_) => Ok(0),
    }
}

/// Parses tiles, bundles and leaves. Bytes that are accepted are encoded to themselves.
///
/// # Errors
/// Other bytes were encoded, or a prefix is not one of whole items.
pub fn tiles(bytes: &[u8]) -> Result<usize, String> {
    let mut valid = 0;
    if let Ok(hashes) = tile::hashes(bytes) {
        if hashes.iter().flat_map(|Hash(hash)| hash).ne(bytes) {
            return Err("a tile changed when it was decoded and encoded again".to_owned());
        }
        valid += hashes.len();
    }
    let Ok(entries) = tile::entries(bytes) else { return Ok(valid) };
    let mut again = Vec::new();
    for (count, entry) in (1..).zip(&entries) {
        tile::append_entry(&mut again, entry);
        if FileKind::Entries.prefix(bytes, count) != Some(again.len()) {
            return Err(format!("{count} entries have a different length when they are encoded again"));
        }
        if let Ok(leaf) = Leaf::parse(entry) {
            let bytes = leaf.to_bytes().map_err(|error| error.to_string())?;
            if bytes != *entry {
                return Err(format!("{entry:?} became {bytes:?}"));
            }
            valid += 1;
        }
    }
    if again != bytes {
        return Err("a bundle became another".to_owned());
    }
    Ok(valid + entries.len())
}

/// Verifies a receipt.
///
/// # Errors
/// A receipt was accepted that signing does not produce.
pub fn receipt(bytes: &[u8]) -> Result<usize, String> {
    let (signer, ring) = key()?;
    let now = Timestamp::now();
    let Ok(verified) = receipt::verify(bytes, &ring, now) else { return Ok(0) };
    let again = receipt::sign(verified.receipt.clone(), verified.subjects.clone(), &signer).map_err(|error| error.to_string())?;
    match receipt::verify(again.as_bytes(), &ring, now) {
        Ok(other) if other == verified => Ok(verified.to_string().lines().count()),
        other => Err(format!("{verified:?} became {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{leaf::tests::leaves, receipt::tests::signed};

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    fn checkpoint() -> SignedNote {
        let checkpoint = Checkpoint { origin: "agentd/test".to_owned(), size: 2, root: Hash::empty() };
        SignedNote::sign(checkpoint.to_string(), &[&key().unwrap().0])
    }

    fn bundle() -> Vec<u8> {
        let mut bundle = Vec::new();
        leaves().iter().for_each(|leaf| tile::append_entry(&mut bundle, &leaf.to_bytes().unwrap()));
        bundle
    }

    #[test]
    fn seeds_are_accepted_in_full() {
        let inclusion = InclusionProof { index: 0, path: vec![Hash::empty()], checkpoint: checkpoint() };
        let consistency = ConsistencyProof { old: 1, path: vec![Hash::empty()], checkpoint: checkpoint() };
        for (name, seed, valid) in [
            ("checkpoint", checkpoint().to_string(), 2),
            // A proof ends with a note, and is itself one whose text nobody has signed.
            ("inclusion", inclusion.to_string(), 2),
            ("consistency", consistency.to_string(), 2),
            ("keys", key().unwrap().1.to_string(), 1),
        ] {
            assert_eq!(note(seed.as_bytes()), Ok(valid), "{name}");
            keep_seed("record_notes", name, seed.as_bytes());
        }
        assert_eq!(tiles(&bundle()), Ok(16));
        keep_seed("record_tiles", "bundle", &bundle());
        let tile = [Hash::empty().0, Hash::leaf(b"x").0].concat();
        assert!(tiles(&tile).unwrap() >= 2);
        keep_seed("record_tiles", "tile", &tile);
        assert!(receipt(signed().as_bytes()).unwrap() > 10);
        keep_seed("record_receipts", "receipt", signed().as_bytes());
    }

    proptest::proptest! {
        /// Changes some bytes of a valid input.
        #[test]
        fn changed_inputs_break_no_invariant(
            changes in proptest::collection::vec((proptest::prelude::any::<usize>(), proptest::prelude::any::<u8>()), 1..4),
        ) {
            let changed = |seed: &[u8]| {
                let mut bytes = seed.to_vec();
                for (at, value) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = *value;
                }
                bytes
            };
            proptest::prop_assert_eq!(note(&changed(checkpoint().to_string().as_bytes())).err(), None);
            proptest::prop_assert_eq!(tiles(&changed(&bundle())).err(), None);
            proptest::prop_assert_eq!(receipt(&changed(signed().as_bytes())).err(), None);
        }
    }
}
