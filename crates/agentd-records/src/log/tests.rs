//! Tests of writing, interrupted writing and verifying.

use super::{writer::Writer, *};
use crate::{
    checkpoint::Checkpoint,
    key_ring::KeyRing,
    leaf::{
        AuditEvent,
        tests::{label, leaves},
    },
    merkle::Hash,
    note::{NoteError, SignedNote, Signer},
    proof::{is_consistent, is_included},
    tile::FileKind,
    time::Timestamp,
};
use proptest::prelude::*;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn signer() -> Arc<Signer> {
    Arc::new(Signer::new("agentd/test", &[1; 32]).unwrap())
}

pub(super) fn ring() -> KeyRing {
    KeyRing::parse(format!("{} 2026-01-01T00:00:00.000000Z\n", signer().verifier()).as_bytes()).unwrap()
}

fn keys() -> Keys {
    Keys { ring: ring(), signer: signer() }
}

pub(super) fn leaf(number: u64) -> Vec<u8> {
    let event =
        AuditEvent::Administrative { principal: label("uid:0"), act: label(&format!("act {number}")), details: [].into() };
    Leaf::new(Timestamp::now(), event).to_bytes().unwrap()
}

pub(super) fn open(root: &Path) -> Result<Writer, LogError> {
    Writer::open(root, signer().verifier(), vec![signer()])
}

/// Appends leaves until the log has `size` leaves, in one commit.
fn grow(root: &Path, size: u64) {
    let mut writer = open(root).unwrap();
    let leaves: Vec<_> = (writer.size()..size).map(leaf).collect();
    writer.commit(leaves.iter().map(Vec::as_slice)).unwrap();
}

pub(super) fn log_of(size: u64) -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("audit");
    grow(&root, size);
    (place, root)
}

pub(super) fn checked(root: &Path) -> Result<Verified, VerifyError> {
    verify(&LogReader::new(root), &ring(), None)
}

pub(super) fn note_of(root: &Path) -> String {
    LogReader::new(root).note().unwrap().to_string()
}

fn opened(note: &str) -> Checkpoint {
    SignedNote::parse(note.as_bytes()).unwrap().verify(ring().verifiers()).unwrap().0.parse().unwrap()
}

/// Copies a log.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copied = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &copied) } else { fs::copy(&path, &copied).map(drop).unwrap() }
    }
}

/// Returns the files of a log that contain something.
pub(super) fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn files_are_those_that_the_specification_names() {
    let (_place, root) = log_of(600);
    let names: Vec<_> = files(&root).iter().map(|path| path.strip_prefix(&root).unwrap().display().to_string()).collect();
    assert_eq!(
        names,
        [
            "checkpoint",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/88",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/88"
        ]
    );
    for path in files(&root).iter().chain([&root, &root.join("tile/0")]) {
        let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
        assert_eq!(mode & 0o077, 0, "{path:?} is private");
    }
    let exported = root.join("../exported");
    let reader = LogReader::new(&root);
    let checkpoint = checked(&root).unwrap().checkpoint;
    reader.export(&reader.note().unwrap(), &checkpoint, &exported).unwrap();
    let exported_names: Vec<_> =
        files(&exported).iter().map(|path| path.strip_prefix(&exported).unwrap().display().to_string()).collect();
    assert_eq!(exported_names, names);
    assert_eq!(checked(&exported).unwrap().checkpoint, checkpoint);
    assert!(matches!(reader.export(&reader.note().unwrap(), &checkpoint, &exported), Err(LogError::Exists(_))));
}

#[test]
fn second_writer_is_refused_while_the_first_lives() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("audit");
    let first = open(&root).unwrap();
    assert!(matches!(open(&root).err(), Some(LogError::Busy(_))));
    drop(first);
    assert!(open(&root).is_ok());
}

#[test]
fn log_of_another_key_and_log_without_its_checkpoint_are_refused() {
    let (_place, root) = log_of(3);
    let other = Arc::new(Signer::new("agentd/test", &[2; 32]).unwrap());
    assert!(matches!(
        Writer::open(&root, other.verifier(), vec![other.clone()]).err(),
        Some(LogError::Note(NoteError::Unknown(_)))
    ));
    fs::remove_file(root.join("checkpoint")).unwrap();
    assert!(matches!(open(&root).err(), Some(LogError::Missing(_))));
}

#[test]
fn log_whose_last_leaves_were_changed_is_not_continued_and_not_altered() {
    for (size, file) in [(300, "tile/entries/001.p/44"), (256, "tile/1/000.p/1")] {
        let (_place, root) = log_of(size);
        let mut bytes = fs::read(root.join(file)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(root.join(file), &bytes).unwrap();
        assert!(matches!(open(&root).err(), Some(LogError::Root)), "{file}");
        assert_eq!(fs::read(root.join(file)).unwrap(), bytes);
    }
}

/// The states that a crash leaves: the checkpoint is that of the last commit, and the files contain any part of the next one.
#[test]
fn interrupted_commit_is_cut_off_and_the_log_continues() {
    for (durable, written) in
        [(0, 5), (5, 6), (250, 256), (250, 600), (256, 257), (256, 513), (511, 513), (512, 700), (300, 1100)]
    {
        let (place, root) = log_of(durable);
        let (kept, before) = (note_of(&root), place.path().join("before"));
        copy(&root, &before);
        grow(&root, written);
        fs::write(root.join("checkpoint"), &kept).unwrap();
        fs::write(root.join("checkpoint.draft"), &kept[..kept.len() / 2]).unwrap();
        grow(&root, durable);
        assert_eq!(checked(&root).unwrap().checkpoint.size, durable, "{durable} of {written}");
        assert_eq!(note_of(&root), kept);
        for file in files(&before) {
            let file = file.strip_prefix(&before).unwrap();
            assert_eq!(
                fs::read(root.join(file)).unwrap(),
                fs::read(before.join(file)).unwrap(),
                "{file:?}, {durable} of {written}"
            );
        }
        grow(&root, written + 300);
        let kept = verify(&LogReader::new(&root), &ring(), Some(kept.as_bytes())).unwrap();
        assert_eq!((kept.checkpoint.size, kept.kept), (written + 300, Some(durable)));
    }
}

/// What was not flushed may be lost in a power failure: the contents of the last tile, and the last renames.
#[test]
fn unflushed_writes_may_be_lost() {
    for size in [5, 255, 300, 511, 600] {
        let (_place, root) = log_of(size);
        let (width, index) = (size % 256, size / 256);
        let tile = root.join(FileKind::Hashes(0).partial(index)).join(width.to_string());
        let bundle = root.join(FileKind::Entries.partial(index)).join(width.to_string());
        for lost in [&[][..], &[0; 32 * 256], &[7; 5]] {
            fs::write(&tile, lost).unwrap();
            grow(&root, size);
            assert_eq!(checked(&root).unwrap().checkpoint.size, size);
        }
        fs::remove_dir_all(tile.parent().unwrap()).unwrap();
        fs::rename(&bundle, bundle.with_file_name("1")).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(bundle.with_file_name("1"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[9; 7]))
            .unwrap();
        grow(&root, size);
        assert_eq!(checked(&root).unwrap().checkpoint.size, size);
        // A file of a later commit whose checkpoint was lost.
        fs::create_dir_all(root.join(FileKind::Entries.partial(index + 1))).unwrap();
        fs::write(root.join(FileKind::Entries.partial(index + 1)).join("9"), [0; 18]).unwrap();
        fs::write(root.join(FileKind::Entries.full(index + 1)), [0; 512]).unwrap();
        grow(&root, size + 600);
        assert_eq!(checked(&root).unwrap().checkpoint.size, size + 600);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Commits of any sizes, with the log closed between some of them.
    #[test]
    fn log_has_every_leaf_at_its_index(commits in prop::collection::vec((0..400_usize, any::<bool>()), 1..8)) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("audit");
        let (mut expected, mut notes, mut writer) = (Vec::new(), Vec::new(), None::<Writer>);
        for (count, close) in commits {
            let new: Vec<_> = (0..count).map(|number| leaf(number as u64)).collect();
            let mut open = writer.take().map_or_else(|| open(&root), Ok).unwrap();
            open.commit(new.iter().map(Vec::as_slice)).unwrap();
            notes.push(note_of(&root));
            expected.extend(new);
            writer = (!close).then_some(open);
        }
        let (reader, size) = (LogReader::new(&root), expected.len() as u64);
        let verified = checked(&root).unwrap();
        prop_assert_eq!(verified.checkpoint.size, size);
        for (index, leaf) in (0..).zip(&expected) {
            if index % 97 == 0 || size - index < 3 {
                prop_assert_eq!(&reader.leaf(size, index).unwrap(), leaf);
            }
        }
        let current = (&reader.note().unwrap(), &verified.checkpoint);
        for note in &notes {
            prop_assert!(verify(&reader, &ring(), Some(note.as_bytes())).is_ok());
            let old = opened(note);
            let proof = prove_consistency(&reader, current, (old.size, old.root)).unwrap();
            let again: ConsistencyProof = proof.to_string().parse().unwrap();
            prop_assert!(is_consistent((old.size, old.root), (size, verified.checkpoint.root), &again.path));
        }
        if size > 0 {
            let proof: InclusionProof = prove_inclusion(&reader, current, size / 2).unwrap().0.to_string().parse().unwrap();
            let leaf = Hash::leaf(&expected[usize::try_from(size / 2).unwrap()]);
            prop_assert!(is_included(leaf, proof.index, (size, verified.checkpoint.root), &proof.path));
        }
        let missing = matches!(prove_inclusion(&reader, current, size), Err(LogError::NoLeaf { .. }));
        prop_assert!(missing);
    }
}

#[test]
fn unknown_leaf_is_not_accepted_although_it_is_signed() {
    let (_place, root) = log_of(2);
    open(&root).unwrap().commit([&b"{\"v\":2}"[..]].into_iter()).unwrap();
    assert!(matches!(checked(&root), Err(VerifyError::Leaf { index: 2, .. })));
}

#[test]
fn checkpoint_needs_the_key_in_use_and_no_unknown_signature() {
    let (_place, root) = log_of(2);
    let other = Signer::new("agentd/test", &[2; 32]).unwrap();
    let rings = |times: &str| {
        let lines = format!("{} {times}\n{} 2026-02-01T00:00:00.000000Z\n", signer().verifier(), other.verifier());
        KeyRing::parse(lines.as_bytes()).unwrap()
    };
    let retired = rings("2026-01-01T00:00:00.000000Z 2026-02-01T00:00:00.000000Z");
    assert!(matches!(verify(&LogReader::new(&root), &retired, None), Err(VerifyError::Altered(Alteration::OldKey))));
    let kept = note_of(&root);
    let (text, _) = kept.split_once("\n\n").unwrap();
    let both = SignedNote::sign(format!("{text}\n"), &[&signer(), &other]).to_string();
    fs::write(root.join("checkpoint"), &both).unwrap();
    assert!(verify(&LogReader::new(&root), &retired, None).is_ok());
    assert!(matches!(checked(&root), Err(VerifyError::UnknownKey(_))));
    // The next writer signs the checkpoint again.
    drop(open(&root).unwrap());
    assert_eq!(note_of(&root), kept);
}

#[test]
fn removed_and_replaced_leaves_are_found_with_a_kept_checkpoint() {
    let (place, root) = log_of(300);
    let older = place.path().join("older");
    copy(&root, &older);
    grow(&root, 400);
    let kept = note_of(&root);
    let verify = |root: &Path| verify(&LogReader::new(root), &ring(), Some(kept.as_bytes()));
    assert!(verify(&root).is_ok());
    // An attacker with the key signs a shorter log, and one with other leaves.
    assert!(checked(&older).is_ok());
    assert!(matches!(verify(&older), Err(VerifyError::Altered(Alteration::Truncated { size: 300, kept: 400 }))));
    grow(&older, 400);
    assert!(checked(&older).is_ok());
    assert!(matches!(verify(&older), Err(VerifyError::Altered(Alteration::Rewritten(400)))));
    grow(&older, 500);
    assert!(matches!(verify(&older), Err(VerifyError::Altered(Alteration::Rewritten(400)))));
    // Without the key, an attacker deletes the log, and agentd begins another one.
    let deleted = place.path().join("deleted");
    grow(&deleted, 1);
    assert!(checked(&deleted).is_ok());
    assert!(matches!(verify(&deleted), Err(VerifyError::Altered(Alteration::Truncated { size: 1, kept: 400 }))));
    for bad in ["", &kept[1..], &kept.replace("400", "399")] {
        let refused = super::verify(&LogReader::new(&root), &ring(), Some(bad.as_bytes()));
        assert!(matches!(refused, Err(VerifyError::Kept(_))), "{bad}");
    }
}

#[tokio::test]
async fn concurrent_appends_get_their_own_indices() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("audit");
    let log = Arc::new(AuditLog::start(open(&root).unwrap(), keys()).unwrap());
    let tasks: Vec<_> = (0..200)
        .map(|number| {
            let log = log.clone();
            tokio::spawn(async move {
                let time = leaves().remove(number % 6).time;
                let event =
                    AuditEvent::Administrative { principal: label("uid:0"), act: label(&number.to_string()), details: [].into() };
                let leaf = Leaf::new(time, event);
                (log.append(&leaf).await.unwrap(), leaf.to_bytes().unwrap())
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    for (index, leaf) in all {
        assert_eq!(LogReader::new(&root).leaf(200, index).ok(), Some(leaf));
    }
    drop(log);
    assert_eq!(checked(&root).unwrap().checkpoint.size, 200);
}

#[tokio::test]
async fn after_a_failed_commit_every_leaf_is_refused_and_a_restart_continues() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("audit");
    let log = AuditLog::start(open(&root).unwrap(), keys()).unwrap();
    let leaf = leaves().remove(0);
    assert_eq!(log.append(&leaf).await.unwrap(), 0);
    // The draft of the next checkpoint cannot be created here.
    fs::create_dir(root.join("checkpoint.draft")).unwrap();
    assert!(matches!(log.append(&leaf).await, Err(LogError::Unwritten(_))));
    fs::remove_dir(root.join("checkpoint.draft")).unwrap();
    assert!(matches!(log.append(&leaf).await, Err(LogError::Unwritten(_))));
    drop(log);
    assert_eq!(checked(&root).unwrap().checkpoint.size, 1);
    let log = AuditLog::start(open(&root).unwrap(), keys()).unwrap();
    assert_eq!(log.append(&leaf).await.unwrap(), 1);
    drop(log);
    assert_eq!(checked(&root).unwrap().checkpoint.size, 2);
}

#[test]
fn reader_finds_every_leaf_while_writers_start_and_commit() {
    let (_place, root) = log_of(250);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| (251..300).for_each(|size| grow(&root, size)));
        while !writes.is_finished() {
            checked(&root).unwrap();
        }
    });
    assert_eq!(checked(&root).unwrap().checkpoint.size, 299);
}
