//! Tests that the size of a volume limits the space that its content occupies on the host.

use crate::place::{ImageFileDir, SIZE, wait_until};
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
};

/// Bytes that the host's file system may need for the metadata of a sparse file.
const SPARSE: u64 = 1 << 20;

pub fn one_file() {
    let place = ImageFileDir::new();
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
    assert!(written > SIZE / 4 * 3, "only {written} bytes were written");
    assert!(place.on_disk() > written && place.on_disk() <= SIZE + SPARSE, "{} on disk", place.on_disk());
    let full = volume.usage().unwrap();
    assert!(full.used_bytes >= written && full.used_bytes <= full.total_bytes, "{full:?}");

    // The kernel discards the blocks of deleted files in the background. Blocks that are not discarded before the volume is
    // detached stay allocated on the host.
    drop(file);
    fs::remove_file(name).unwrap();
    File::open(place.mount()).unwrap().sync_all().unwrap();
    wait_until("the host does not get the space back", || place.on_disk() < SIZE / 4);
    volume.detach().unwrap();
}

pub fn small_files() {
    let place = ImageFileDir::new();
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
    assert!(count >= SIZE / 8192 - 16, "only {count} files were created: {full:?}");
    volume.detach().unwrap();
    assert!(place.on_disk() <= SIZE + SPARSE, "{} on disk", place.on_disk());
}
