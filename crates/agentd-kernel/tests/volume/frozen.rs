//! Tests of a frozen volume, whose image is a consistent copy of one moment.

use crate::place::{ImageFileDir, assert_whole};
use agentd_kernel::freeze::FrozenFileSystem;
use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

pub fn of_one_moment() {
    let (place, copy) = (ImageFileDir::new(), ImageFileDir::empty());
    let Some(volume) = place.attach() else { return };
    let written = AtomicU32::new(0);
    let write = |number: u32| {
        fs::write(place.mount().join(number.to_string()), number.to_string()).unwrap();
        written.store(number, Ordering::SeqCst);
    };
    std::thread::scope(|scope| {
        (1..=100).for_each(write);
        let frozen = FrozenFileSystem::freeze(&place.mount()).unwrap();
        assert_eq!(FrozenFileSystem::freeze(&place.mount()).unwrap_err().errno, Some(libc::EBUSY));
        let late = scope.spawn(|| write(101));
        // The copy contains only files written before the freeze.
        fs::copy(place.image(), copy.image()).unwrap();
        assert_eq!(written.load(Ordering::SeqCst), 100);
        frozen.thaw().unwrap();
        late.join().unwrap();
        // Dropping the value also thaws the file system.
        drop(FrozenFileSystem::freeze(&place.mount()).unwrap());
        write(102);
    });
    volume.detach().unwrap();
    assert_whole(&copy.image());
    let volume = copy.attach().unwrap();
    let names = fs::read_dir(copy.mount()).unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let mut names: Vec<u32> = names.collect();
    names.sort_unstable();
    assert_eq!(names, (1..=100).collect::<Vec<_>>());
    assert_eq!(fs::read_to_string(copy.mount().join("100")).unwrap(), "100");
    volume.detach().unwrap();
}

pub fn over_already() {
    let place = ImageFileDir::new();
    let Some(volume) = place.attach() else { return };
    let frozen = FrozenFileSystem::freeze(&place.mount()).unwrap();
    // Another process thaws the file system.
    let status = std::process::Command::new("/sbin/fsfreeze").arg("-u").arg(place.mount()).status().unwrap();
    assert!(status.success());
    assert_eq!(frozen.thaw().unwrap_err().errno, Some(libc::EINVAL));
    volume.detach().unwrap();
}
