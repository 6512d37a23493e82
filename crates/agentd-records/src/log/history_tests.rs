//! Histories that somebody with the signing key has rewritten. The log itself verifies. Only a kept checkpoint reveals
//! the change.

use super::{
    Alteration, LogReader, VerifyError,
    damage_tests::Random,
    tests::{checked, leaf, note_of, open, ring},
    verify,
};
use std::path::PathBuf;

/// The number of rewritten histories. Each is written to disk.
const HISTORIES: usize = 300;

/// The number of the first leaf that no history has.
const FORGED: u64 = 1 << 32;

fn log_with(leaves: &[Vec<u8>]) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("audit");
    open(&root).unwrap().commit(leaves.iter().map(Vec::as_slice)).unwrap();
    (place, root)
}

/// Changes a history in one of the ways, and returns a description. Afterwards, the log may have grown further.
fn rewrite(leaves: &mut Vec<Vec<u8>>, random: &mut Random) -> String {
    let size = leaves.len();
    let at = random.below(size);
    let what = match random.below(5) {
        0 => {
            leaves[at] = leaf(FORGED);
            format!("replaced leaf {at}")
        }
        1 => {
            leaves.remove(at);
            format!("removed leaf {at}")
        }
        2 => {
            let other = (at + 1 + random.below(size - 1)) % size;
            leaves.swap(at, other);
            format!("exchanged leaves {at} and {other}")
        }
        3 => {
            leaves.insert(at, leaf(FORGED));
            format!("inserted a leaf before {at}")
        }
        _ => {
            leaves.truncate(at);
            format!("truncation to {at} leaves")
        }
    };
    let more = random.below(4);
    leaves.extend((1..=more as u64).map(|number| leaf(FORGED + number)));
    format!("{what}, then {more} more leaves")
}

#[test]
fn history_rewritten_with_the_key_is_found_against_a_kept_checkpoint() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for number in 0..HISTORIES {
        // Every tenth log has several files.
        let size = 2 + random.below(if number % 10 == 0 { 600 } else { 30 });
        let mut leaves: Vec<_> = (0..size as u64).map(leaf).collect();
        let (_place, root) = log_with(&leaves);
        let kept = note_of(&root);
        let what = rewrite(&mut leaves, &mut random);
        let (_other, other) = log_with(&leaves);
        assert!(checked(&other).is_ok(), "{what}");
        let found = verify(&LogReader::new(&other), &ring(), Some(kept.as_bytes()));
        let is_found = matches!(found, Err(VerifyError::Altered(Alteration::Truncated { .. } | Alteration::Rewritten(_))));
        assert!(is_found, "{what}, of {size} leaves: {found:?}");
    }
}

#[test]
fn log_that_only_grew_verifies_against_every_kept_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("audit");
    let mut writer = open(&root).unwrap();
    let mut kept = Vec::new();
    for first in (0..600).step_by(37) {
        let leaves: Vec<_> = (first..first + 37).map(leaf).collect();
        writer.commit(leaves.iter().map(Vec::as_slice)).unwrap();
        kept.push(note_of(&root));
    }
    for note in kept {
        verify(&LogReader::new(&root), &ring(), Some(note.as_bytes())).unwrap();
    }
}
