//! The size of a volume is the most that what is in it takes on the host.

use crate::place::{Place, SIZE, wait_until};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
};

/// What the host's file system may need to keep track of a sparse file, bytes.
const SPARSE: u64 = 1 << 20;

pub fn one_file() {
    let place = Place::new();
    let Some(volume) = place.attach() else { return };
    let name = place.mount().join("file");
    let mut file = File::create(&name).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write(&[7; 1 << 16]) {
            Ok(bytes) => written += bytes as u64,
            Err(error) => break error,
        }
        assert!(written <= SIZE);
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    file.sync_all().unwrap();
    assert!(written > SIZE / 4 * 3, "{written} bytes fitted");
    assert!(place.on_disk() > written && place.on_disk() <= SIZE + SPARSE, "{} on disk", place.on_disk());
    let full = volume.usage().unwrap();
    assert!(full.used_bytes >= written && full.used_bytes <= full.total_bytes, "{full:?}");

    // What is deleted is the host's again, when the kernel gets to it. What it has not when the volume is detached, it forgets.
    drop(file);
    fs::remove_file(name).unwrap();
    File::open(place.mount()).unwrap().sync_all().unwrap();
    wait_until("the host gets the room back", || place.on_disk() < SIZE / 4);
    volume.detach().unwrap();
}

pub fn small_files() {
    let place = Place::new();
    let Some(volume) = place.attach() else { return };
    let mut count = 0;
    let error = loop {
        match fs::write(place.mount().join(format!("{count}")), "small") {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(count < SIZE / 4096);
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let full = volume.usage().unwrap();
    assert!(count >= SIZE / 8192 - 16, "{count} files fitted: {full:?}");
    volume.detach().unwrap();
    assert!(place.on_disk() <= SIZE + SPARSE, "{} on disk", place.on_disk());
}
