//! Tests of keys that are missing, replaced, exposed or rotated, and of processes that record at the same time.

use super::*;
use crate::{
    leaf::tests::{label, leaves},
    log::{VerifyError, verify},
    note::{NoteError, SignedNote},
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

fn place() -> (tempfile::TempDir, Records) {
    let place = tempfile::tempdir().unwrap();
    let records = Records::at(&place.path().join("records"));
    (place, records)
}

fn record(records: &Records) -> u64 {
    records.recorder().unwrap().record(&leaves()[0]).unwrap()
}

fn rotate(records: &Records) -> Result<Keys, RecordsError> {
    records.rotate(&label("uid:0"))
}

fn secret(records: &Records) -> PathBuf {
    let is_secret = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("secret-");
    agentd_disk::entries(&records.keys_folder()).unwrap().into_iter().find(is_secret).unwrap()
}

fn size(records: &Records) -> Result<u64, VerifyError> {
    verify(&records.reader(), &records.ring().unwrap(), None).map(|verified| verified.checkpoint.size)
}

#[test]
fn private_key_of_other_content_is_refused_until_it_is_rotated() {
    let (_place, records) = place();
    record(&records);
    let (_other, other) = self::place();
    other.keys().unwrap();
    let good = fs::read_to_string(secret(&records)).unwrap();
    let foreign = fs::read_to_string(secret(&other)).unwrap();
    for bad in [String::new(), good[..good.len() / 2].to_owned(), foreign, good.replace("PRIVATE+KEY+", "")] {
        fs::write(secret(&records), bad).unwrap();
        assert!(matches!(records.recorder().err(), Some(RecordsError::Key(KeyError::Secret(_)))));
    }
    rotate(&records).unwrap();
    assert_eq!((record(&records), size(&records).unwrap()), (2, 3));
}

#[test]
fn private_key_that_others_may_know_or_replace_is_refused_until_it_is_rotated() {
    let (place, records) = place();
    record(&records);
    fs::set_permissions(secret(&records), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(records.keys(), Err(KeyError::Exposed(_))));
    rotate(&records).unwrap();
    let (path, moved) = (secret(&records), place.path().join("moved"));
    fs::rename(&path, &moved).unwrap();
    assert!(matches!(records.keys(), Err(KeyError::Secret(_))));
    symlink(&moved, &path).unwrap();
    assert!(matches!(records.keys(), Err(KeyError::Exposed(_))));
    rotate(&records).unwrap();
    assert_eq!((record(&records), size(&records).unwrap()), (3, 4));
    for folder in ["", "keys", "audit"] {
        let folder = records.folder.join(folder);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        let refused = records.recorder().err().unwrap().to_string();
        assert!(refused.contains("chmod 700"), "{refused}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn log_is_not_continued_with_the_keys_of_another_installation() {
    let [(_one, one), (_other, other)] = [place(), place()];
    record(&one);
    record(&other);
    let before = fs::read(one.log_folder().join("checkpoint")).unwrap();
    fs::remove_dir_all(one.keys_folder()).unwrap();
    // The first use generates a key, which has not signed this log.
    let refused = one.recorder().err();
    assert!(matches!(refused, Some(RecordsError::Log(LogError::Note(NoteError::Unknown(_))))), "{refused:?}");
    fs::remove_dir_all(one.keys_folder()).unwrap();
    fs::rename(other.keys_folder(), one.keys_folder()).unwrap();
    assert!(matches!(one.recorder().err(), Some(RecordsError::Log(LogError::Note(NoteError::Unknown(_))))));
    assert!(size(&one).is_err());
    assert_eq!(fs::read(one.log_folder().join("checkpoint")).unwrap(), before);
}

#[test]
fn interrupted_rotation_keeps_the_old_key_in_use() {
    let (_place, records) = place();
    record(&records);
    let public = records.keys_folder().join("public");
    let (old, text) = (fs::read(secret(&records)).unwrap(), fs::read(&public).unwrap());
    let path = secret(&records);
    rotate(&records).unwrap();
    // The rotation was recorded, and interrupted before the new key was in use.
    fs::write(&public, text).unwrap();
    fs::write(&path, &old).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(size(&records), Err(VerifyError::UnknownKey(_))));
    assert_eq!(record(&records), 2);
    assert_eq!(size(&records).unwrap(), 3);
    assert_eq!(fs::read(secret(&records)).unwrap(), old);
    assert_eq!(rotate(&records).unwrap().ring.keys().len(), 2);
    assert_eq!(size(&records).unwrap(), 4);
}

#[test]
fn rotation_is_signed_by_both_keys_and_old_checkpoints_stay_valid() {
    let (_place, records) = place();
    record(&records);
    let kept = records.reader().note().unwrap().to_string();
    let old = records.keys().unwrap().signer;
    let ring = rotate(&records).unwrap().ring;
    let note: SignedNote = records.reader().note().unwrap();
    let (_, signatures) = note.verify(ring.verifiers()).unwrap();
    assert_eq!(signatures.known.len(), 2);
    assert_eq!(ring.keys()[0].until, Some(ring.keys()[1].from));
    let verified = verify(&records.reader(), &ring, Some(kept.as_bytes())).unwrap();
    assert_eq!((verified.checkpoint.size, verified.kept), (2, Some(1)));
    // A thief of the old key cannot extend the log.
    Writer::open(&records.log_folder(), old.verifier(), vec![old.clone()]).unwrap().commit([&b"x"[..]].into_iter()).unwrap();
    assert!(size(&records).is_err());
}

#[test]
fn key_is_not_replaced_while_the_log_is_open() {
    let (_place, records) = place();
    let log = records.open_log().unwrap();
    let refused = records.try_rotate(label("uid:0"));
    assert!(matches!(refused, Err(RecordsError::Log(LogError::Busy(_)))), "{refused:?}");
    assert_eq!(records.ring().unwrap().keys().len(), 1);
    drop(log);
    rotate(&records).unwrap();
    assert_eq!(records.open_log().unwrap().keys().ring.keys().len(), 2);
}

#[test]
fn recorders_and_rotations_at_the_same_time_wait_for_each_other() {
    let (_place, records) = place();
    let indices: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..5).map(|_| record(&records)).collect::<Vec<_>>())).collect();
        let rotations = scope.spawn(|| (0..3).for_each(|_| drop(rotate(&records).unwrap())));
        rotations.join().unwrap();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let different: std::collections::BTreeSet<_> = indices.iter().collect();
    assert_eq!((different.len(), size(&records).unwrap()), (40, 43));
}
