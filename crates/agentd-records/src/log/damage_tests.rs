//! Changes of a log, all of which must be found.

use super::{
    Alteration, LogError, LogReader, VerifyError, prove_consistency, prove_inclusion,
    tests::{checked, files, log_of, note_of, open, ring},
    verify,
};
use crate::{
    checkpoint::Checkpoint,
    key_ring::KeyRing,
    merkle::Hash,
    note::{SignedNote, Signer},
};
use std::{fs, path::Path};

/// A generator of Marsaglia's xorshift, with the same numbers in every run.
pub(super) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Changes a file in one of the ways, and returns a description.
fn damage(file: &Path, bytes: &[u8], random: &mut Random) -> String {
    let at = random.below(bytes.len());
    match random.below(10) {
        0..7 => {
            let (mut changed, bit) = (bytes.to_vec(), random.below(8));
            changed[at] ^= 1 << bit;
            fs::write(file, changed).unwrap();
            format!("bit {bit} of byte {at}")
        }
        7 => {
            fs::write(file, &bytes[..at]).unwrap();
            format!("truncation to {at} bytes")
        }
        _ => {
            let mut parts = reorderable(file, bytes);
            let (one, other) = (random.below(parts.len()), random.below(parts.len()));
            parts.swap(one, other);
            fs::write(file, parts.concat()).unwrap();
            format!("exchange of {one} and {other}")
        }
    }
}

/// Splits a file into its entries, hashes or lines.
fn reorderable(file: &Path, bytes: &[u8]) -> Vec<Vec<u8>> {
    if file.ends_with("checkpoint") {
        return bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    }
    if file.components().any(|part| part.as_os_str() == "entries") {
        let framed = |entry: &[u8]| {
            let mut framed = Vec::new();
            crate::tile::append_entry(&mut framed, entry);
            framed
        };
        return crate::tile::entries(bytes).unwrap().into_iter().map(framed).collect();
    }
    bytes.chunks(32).map(<[u8]>::to_vec).collect()
}

#[test]
fn ten_thousand_changes_truncations_and_reorderings_are_all_found_against_a_kept_checkpoint() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // Verifying the larger log takes longer. It has full files and two levels of tiles.
    for (size, count) in [(9, 9_000), (290, 1_000)] {
        let (_place, root) = log_of(size);
        assert_damage_is_found(&root, count, &mut random);
    }
}

fn assert_damage_is_found(root: &Path, count: usize, random: &mut Random) {
    let files = files(root);
    let contents: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let kept = note_of(root);
    let checked = |root: &Path| verify(&LogReader::new(root), &ring(), Some(kept.as_bytes()));
    let mut changes = 0;
    while changes < count {
        let which = random.below(files.len());
        let (file, bytes) = (&files[which], &contents[which]);
        let what = damage(file, bytes, random);
        // The exchange of a part with itself changes nothing.
        if fs::read(file).unwrap() != *bytes {
            assert!(checked(root).is_err(), "{what} of {file:?}");
            changes += 1;
        }
        fs::write(file, bytes).unwrap();
    }
    assert!(checked(root).is_ok());
    for file in &files {
        let moved = file.with_extension("moved");
        fs::rename(file, &moved).unwrap();
        // A partial file is found by its contents, whatever its name is.
        if !file.parent().unwrap().to_string_lossy().ends_with(".p") {
            assert!(checked(root).is_err(), "{file:?}");
        }
        fs::rename(&moved, file).unwrap();
    }
}

#[test]
fn leaves_that_were_not_signed_are_refused_although_their_hashes_match() {
    let [(_place, root), (_other, other)] = [log_of(300), log_of(300)];
    fs::copy(root.join("checkpoint"), other.join("checkpoint")).unwrap();
    assert!(matches!(checked(&other), Err(VerifyError::Altered(Alteration::Root))));
    let reader = LogReader::new(&other);
    let (note, checkpoint) = reader.checkpoint(&ring()).unwrap();
    assert!(matches!(prove_inclusion(&reader, (&note, &checkpoint), 0), Err(LogError::Root)));
    assert!(matches!(prove_consistency(&reader, (&note, &checkpoint), (1, Hash::empty())), Err(LogError::Root)));
    fs::write(root.join("tile/1/000.p/1"), [7; 32]).unwrap();
    assert!(matches!(checked(&root), Err(VerifyError::Altered(Alteration::Tile { level: 1, index: 0 }))));
}

#[test]
fn checkpoint_of_another_log_or_with_another_empty_root_is_refused() {
    let (_place, root) = log_of(2);
    let [own, other] = [("agentd/test", 1), ("agentd/other", 2)].map(|(name, seed)| Signer::new(name, &[seed; 32]).unwrap());
    let lines = [&own, &other].map(|signer| format!("{} 2026-01-01T00:00:00.000000Z\n", signer.verifier()));
    let ring = KeyRing::parse(lines.concat().as_bytes()).unwrap();
    let verify = |signer: &Signer, size, empty| {
        let origin = signer.verifier().key_id().name.clone();
        let kept = SignedNote::sign(Checkpoint { origin, size, root: empty }.to_string(), &[signer]).to_string();
        verify(&LogReader::new(&root), &ring, Some(kept.as_bytes()))
    };
    assert!(verify(&own, 0, Hash::empty()).is_ok());
    assert!(matches!(verify(&own, 0, Hash([7; 32])), Err(VerifyError::Altered(Alteration::Rewritten(0)))));
    assert!(matches!(verify(&other, 0, Hash::empty()), Err(VerifyError::KeptOrigin(_))));
    // The key in use has signed the checkpoint of a log with another name.
    let foreign = Checkpoint { origin: "agentd/other".to_owned(), size: 0, root: Hash::empty() };
    fs::write(root.join("checkpoint"), SignedNote::sign(foreign.to_string(), &[&own]).to_string()).unwrap();
    assert!(matches!(open(&root).err(), Some(LogError::Origin(_))));
    assert!(matches!(checked(&root), Err(VerifyError::Altered(Alteration::OldKey))));
}
