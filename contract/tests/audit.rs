//! Verifies an audit log with the crates `tlog_tiles` and `signed_note`, which share no code with agentd: notes, checkpoints,
//! tiles, entry bundles and proofs have the forms of C2SP.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use agentd_records::{AuditEvent, KeyRing, Label, Leaf, Records, Timestamp, prove_consistency, prove_inclusion};
use signed_note::{Note, StandardVerifier, VerifierList};
use std::{fs, path::PathBuf};
use tlog_tiles::{
    Checkpoint, Error, Hash, HashReader, Tile, TileHashReader, TileReader, check_record, check_tree, prove_record, record_hash,
    stored_hash_index, tree_hash,
};

const LEAVES: u64 = 700;
const EARLIER: u64 = 300;

/// The layout of C2SP: tiles of height 8, without the height in their paths.
struct Layout(PathBuf);

impl Layout {
    fn read(&self, tile: &Tile, folder: &str) -> Vec<u8> {
        let path = tile.path().replacen(&format!("tile/8/{}", tile.level()), &format!("tile/{folder}"), 1);
        fs::read(self.0.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl TileReader for Layout {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(tiles.iter().map(|tile| self.read(tile, &tile.level().to_string())).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// Returns the checkpoint of a note that these keys have signed.
fn opened(note: &str, ring: &KeyRing) -> Checkpoint {
    let keys = ring.verifiers().map(|key| Box::new(StandardVerifier::new(&key.to_string()).unwrap()) as _).collect();
    let note = Note::from_bytes(note.as_bytes()).unwrap();
    let (verified, unverified) = note.verify(&VerifierList::new(keys)).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    Checkpoint::from_bytes(note.text()).unwrap()
}

/// Returns the lines of hashes before the empty line, and the note after it.
fn proof(text: &str, head: usize) -> (Vec<Hash>, &str) {
    let (lines, note) = text.split_once("\n\n").unwrap();
    (lines.lines().skip(head).map(|line| Hash::parse_hash(line).unwrap()).collect(), note)
}

#[test]
fn independent_verifier_accepts_log_checkpoint_and_proofs() {
    let place = tempfile::tempdir().unwrap();
    let records = Records::at(&place.path().join("records"));
    let log = records.open_log().unwrap();
    let keys = records.keys().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let label = |text: String| Label::try_from(text).unwrap();
    let mut earlier = String::new();
    for number in 0..LEAVES {
        if number == EARLIER {
            earlier = fs::read_to_string(place.path().join("records/audit/checkpoint")).unwrap();
        }
        let act = label(format!("act {number}"));
        let event = AuditEvent::Administrative { principal: label("uid:0".to_owned()), act, details: [].into() };
        assert_eq!(runtime.block_on(log.append(&Leaf::new(Timestamp::now(), event))).unwrap(), number);
    }
    drop(log);

    let layout = Layout(place.path().join("records/audit"));
    let note = fs::read_to_string(layout.0.join("checkpoint")).unwrap();
    let checkpoint = opened(&note, &keys.ring);
    assert_eq!((checkpoint.size(), checkpoint.extension()), (LEAVES, ""));
    assert_eq!(checkpoint.origin(), keys.signer.verifier().key_id().name);
    // The reader authenticates each tile against the root.
    let reader = TileHashReader::new(LEAVES, *checkpoint.hash(), &layout);
    assert_eq!(tree_hash(LEAVES, &reader).unwrap(), *checkpoint.hash());

    let mut number = 0;
    while number < LEAVES {
        let width = u32::try_from((LEAVES - number).min(256)).unwrap();
        let bundle = layout.read(&Tile::new(8, 0, number / 256, width, false), "entries");
        let mut rest = bundle.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
            let index = stored_hash_index(0, number);
            assert_eq!(reader.read_hashes(&[index]).unwrap(), [record_hash(entry)], "leaf {number}");
            (rest, number) = (after, number + 1);
        }
        assert!(rest.is_empty());
    }
    assert_eq!(number, LEAVES);

    let (own, ours) = records.reader().checkpoint(&keys.ring).unwrap();
    for index in [0, 255, 256, 511, 512, 699] {
        let (text, leaf) = prove_inclusion(&records.reader(), (&own, &ours), index).unwrap();
        let text = text.to_string();
        assert!(text.starts_with(&format!("c2sp.org/tlog-proof@v1\nindex {index}\n")), "{text}");
        let (path, proven) = proof(&text, 2);
        assert_eq!(proven, note);
        assert_eq!(prove_record(LEAVES, index, &reader).unwrap(), path);
        check_record(&path, LEAVES, *checkpoint.hash(), index, record_hash(&leaf)).unwrap();
    }
    let before = opened(&earlier, &keys.ring);
    assert_eq!(before.size(), EARLIER);
    let old = (EARLIER, agentd_records::Hash(before.hash().0));
    let text = prove_consistency(&records.reader(), (&own, &ours), old).unwrap().to_string();
    assert!(text.starts_with(&format!("old {EARLIER}\n")), "{text}");
    let (path, proven) = proof(&text, 1);
    assert_eq!(proven, note);
    check_tree(&path, LEAVES, *checkpoint.hash(), EARLIER, *before.hash()).unwrap();
}
