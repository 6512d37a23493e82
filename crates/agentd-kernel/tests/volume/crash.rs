//! Tests of volumes after the end of the process that holds them, after a simulated power failure, and on a full disk of the
//! host.

use crate::{
    holder::Holder,
    place::{ImageFileDir, SIZE, assert_requires_root, assert_whole, devices, is_mounted, is_root, wait_until},
};
use agentd_kernel::volume::Volume;
use rustix::process::{Pid, Signal};
use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    process::Command,
};

/// Returns true for an ordinary user, after checking that attaching fails.
fn has_no_volumes(place: &ImageFileDir) -> bool {
    if !is_root() {
        assert_requires_root(&Volume::attach(&place.image(), &place.mount()).unwrap_err());
    }
    !is_root()
}

pub fn killed() {
    let place = ImageFileDir::new();
    if has_no_volumes(&place) {
        return;
    }
    let mut holder = Holder::writer(&place.image(), &place.mount());
    let mut last = holder.recv();
    while last < 20 {
        last = holder.recv();
    }
    // The volume is attached, but only in the mount namespace of the holder.
    assert_eq!(devices(&place.image()), 1);
    assert!(!is_mounted(&place.mount()));
    let error = Volume::attach(&place.image(), &place.mount()).unwrap_err();
    assert_eq!(error.errno, Some(libc::EWOULDBLOCK), "{error}");

    let last = holder.kill().unwrap_or(last);
    wait_until("a loop device is left", || devices(&place.image()) == 0);
    assert_whole(&place.image());
    let volume = place.attach().unwrap();
    for number in 0..=last {
        let file = place.mount().join(number.to_string());
        assert_eq!(fs::read_to_string(file).unwrap(), format!("content {number}"));
    }
    volume.detach().unwrap();
}

pub fn killed_unattached() {
    let place = ImageFileDir::new();
    if has_no_volumes(&place) {
        return;
    }
    let mut holder = Holder::opener(&place.image());
    holder.recv();
    assert_eq!(devices(&place.image()), 1);
    holder.kill();
    wait_until("a loop device is left", || devices(&place.image()) == 0);
    assert_whole(&place.image());
}

pub fn killed_but_used() {
    let place = ImageFileDir::new();
    if has_no_volumes(&place) {
        return;
    }
    let mut holder = Holder::parent(&place.image(), &place.mount());
    let user = Pid::from_raw(holder.recv()).unwrap();
    holder.kill();
    let refused = Volume::attach(&place.image(), &place.mount());
    rustix::process::kill_process(user, Signal::KILL).unwrap();
    assert_eq!(refused.unwrap_err().errno, Some(libc::EWOULDBLOCK));
    wait_until("a loop device is left", || devices(&place.image()) == 0);
    place.attach().unwrap().detach().unwrap();
}

pub fn power_cut() {
    let place = ImageFileDir::new();
    let Some(volume) = place.attach() else { return };
    for number in 0..50 {
        let mut file = File::create(place.mount().join(format!("flushed-{number}"))).unwrap();
        file.write_all(&[number; 10_000]).unwrap();
        file.sync_all().unwrap();
        fs::write(place.mount().join(format!("other-{number}")), [number; 10_000]).unwrap();
    }
    cut(&File::open(place.mount()).unwrap());
    assert!(fs::write(place.mount().join("later"), "").is_err());
    drop(volume);
    wait_until("a loop device is left", || devices(&place.image()) == 0);
    // The journal was not replayed.
    let state = Command::new("/sbin/dumpe2fs").arg("-h").arg(place.image()).output().unwrap();
    assert!(String::from_utf8_lossy(&state.stdout).contains("needs_recovery"), "{state:?}");

    let volume = place.attach().unwrap();
    for number in 0..50 {
        assert_eq!(fs::read(place.mount().join(format!("flushed-{number}"))).unwrap(), [number; 10_000]);
    }
    volume.detach().unwrap();
    assert_whole(&place.image());
}

/// Makes the file system discard all data that is not on its disk and refuse further writes (`EXT4_IOC_SHUTDOWN` with
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`, `Documentation/filesystems/ext4`).
fn cut(root: &File) {
    let how: u32 = 2;
    // SAFETY: this ioctl reads one 32-bit number, which lives across the call.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), 0x8004_587D, &raw const how) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A second volume stands for the host's disk.
pub fn host_full() {
    let host = ImageFileDir::new();
    let Some(disk) = host.attach() else { return };
    fs::write(host.mount().join("ballast"), vec![1; 16 << 20]).unwrap();
    let (image, place) = (host.mount().join("image"), host.path("inner"));
    fs::create_dir(&place).unwrap();
    Volume::format(&image, 4 * SIZE).unwrap();
    let volume = Volume::attach(&image, &place).unwrap();
    let mut kept = File::create(place.join("kept")).unwrap();
    kept.write_all(&[3; 1 << 20]).unwrap();
    kept.sync_all().unwrap();
    let mut file = File::create(place.join("big")).unwrap();
    let failed = (0..2 * (SIZE >> 20)).find_map(|_| file.write_all(&[4; 1 << 20]).and_then(|()| file.sync_all()).err());
    assert!(
        matches!(failed.as_ref().and_then(std::io::Error::raw_os_error), Some(libc::ENOSPC | libc::EIO | libc::EROFS)),
        "{failed:?}"
    );
    drop((kept, file));
    drop(volume);
    wait_until("a loop device is left", || devices(&image) == 0);

    fs::remove_file(host.mount().join("ballast")).unwrap();
    disk.detach().unwrap();
    let disk = host.attach().unwrap();
    let volume = Volume::attach(&image, &place).unwrap();
    assert_eq!(fs::read(place.join("kept")).unwrap(), vec![3; 1 << 20]);
    fs::write(place.join("more"), vec![5; 1 << 20]).unwrap();
    volume.detach().unwrap();
    assert_whole(&image);
    disk.detach().unwrap();
}
