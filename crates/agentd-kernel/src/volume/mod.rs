//! A file system on disk that holds what a sandbox writes, and no more than that: ext4 in a sparse file, on a loop device (`loop(4)`).
//!
//! **Why a file system in a file and not project quotas:** it holds on every kernel and on every file system of the host. Quotas
//! are often not built in, and ext4 must have been mounted with `prjquota`.
//!
//! **It is gone when its last user is.** The device clears itself when nobody has it open (`LO_FLAGS_AUTOCLEAR`), and what has it open
//! is the mount. A volume that is open and attached nowhere ([`Volume::open`]) dies with its process, however that dies. One that is
//! attached is in a mount namespace, and in each that is made as a copy of that one: it lives as long as these. So it is attached in a
//! namespace that is private (`mount_namespaces(7)`) and the sandbox's own, and never in the host's.
//!
//! **It is mounted once.** An image is locked (`flock(2)`), and the lock is on the open file that the device has, so the kernel gives
//! it up with the device and not before: neither when the process that attached it dies, nor while another still uses the mount.
//!
//! **When the host's disk is full**, the sparse file cannot grow. What was written and not yet flushed is lost,
//! and `fsync(2)` says so with `ENOSPC` or `EIO`. When it hits the journal, the file system becomes read-only (`errors=remount-ro`)
//! instead of going on with half of a change (`errors=continue`), or stopping the whole host (`errors=panic`, which a superblock can
//! ask for). All that was flushed before is there at the next [`Volume::open`], once there is room; the kernel's log then advises an
//! `e2fsck`.

mod format;
mod loop_device;
mod open;

use crate::{At, mount::attach_at};
use agentd_core::{Layer, LayerError};
use loop_device::LoopDevice;
use open::{lock, open_image, open_named, through};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

pub use format::{LEAST_BYTES, image_bytes};

/// How the file system is mounted (`ext4(5)`), beside `errors`: the host gets the room of deleted files back, after a moment and
/// while it is mounted; and nothing fills the inode tables of a sparse file with zeroes in the background, 3 % of its size.
const OPTIONS: [&str; 2] = ["discard", "noinit_itable"];

/// A file system on disk, mounted. Unmounted when dropped; what others have open of it they keep until they close it.
#[derive(Debug)]
pub struct Volume {
    /// The mount (`fsmount(2)`). By it and not by name, so that whatever comes to lie there is not taken for it.
    mount: OwnedFd,
    /// The image, opened anew: without the lock, which is the loop device's.
    image: OwnedFd,
}

/// Where volumes without a name take their room from: what is kept across restarts is on a disk (File System Hierarchy Standard).
const NAMELESS: &str = "/var/tmp";

/// How much of a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in files, directories and attributes.
    pub used_bytes: u64,
    /// Bytes there is room for: those of the image but for its tables and its journal.
    pub total_bytes: u64,
    /// Files, directories and links.
    pub used_inodes: u64,
    /// How many there can be.
    pub total_inodes: u64,
}

impl Volume {
    /// Makes an image of `bytes` bytes, rounded down to whole blocks, that has an empty file system: the caller's alone, and sparse. It is
    /// whole or not there: until it is whole it has no name (`open(2)`, `O_TMPFILE`). Needs no privilege.
    ///
    /// # Errors
    /// `EEXIST` when there is something of this name, `EINVAL` below [`LEAST_BYTES`], `ELOOP` when part of the name is a symbolic link,
    /// `ENOENT` when there is no `mkfs.ext4`.
    pub fn format(image: &Path, bytes: u64) -> Result<(), LayerError> {
        format::format(image, bytes)
    }

    /// Mounts `image`, which must be the caller's alone, and attaches it nowhere: `nosuid,nodev`, and its root is the caller's alone too,
    /// because set-id files of strangers lie in it. Needs root of the host.
    ///
    /// An image must come from [`Volume::format`] and have been written by mounts alone: whoever makes up a file system can attack the
    /// kernel that mounts it.
    ///
    /// # Errors
    /// `EWOULDBLOCK` when it is mounted already, `EACCES` or `EPERM` for who is not root of the host, `ELOOP` or `ENOTDIR` when part of
    /// the name is a symbolic link, `EINVAL` when it is not a whole ext4 file system.
    pub fn open(image: &Path) -> Result<Self, LayerError> {
        Self::over(open_image(image)?, image)
    }

    /// The mount of a volume without a name, for the changes of one sandbox: `tree` and `work` are in it, and nothing is left of it
    /// when it is gone. It is attached nowhere.
    ///
    /// # Errors
    /// As [`Volume::format`] and [`Volume::open`].
    pub fn for_changes(bytes: u64) -> Result<OwnedFd, LayerError> {
        let folder = Path::new(NAMELESS);
        let volume = Self::over(format::nameless(folder, bytes)?, folder)?;
        for name in ["tree", "work"] {
            rustix::fs::mkdirat(&volume.mount, name, Mode::from(0o755))
                .at(Layer::Volume, || format!("make {name} in the volume"))?;
        }
        volume.mount.try_clone().at(Layer::Volume, || "dup".to_owned())
    }

    fn over(locked: OwnedFd, image: &Path) -> Result<Self, LayerError> {
        lock(&locked, image)?;
        let anew = rustix::fs::open(through(&locked), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .at(Layer::Volume, || format!("open {} anew", image.display()))?;
        let device = LoopDevice::over(&locked, image)?;
        let mount = mount(&device, image)?;
        close_to_others(&mount)?;
        Ok(Self { mount, image: anew })
    }

    /// Opens `image` and attaches it at the directory `place`, in this process's mount namespace.
    ///
    /// # Errors
    /// As [`Volume::open`], for `place` too.
    pub fn attach(image: &Path, place: &Path) -> Result<Self, LayerError> {
        let at = open_named(place, OFlags::PATH | OFlags::DIRECTORY)?;
        let volume = Self::open(image)?;
        attach_at(&volume.mount, &at, place)?;
        Ok(volume)
    }

    /// How much of it is used (`statfs(2)`).
    pub fn usage(&self) -> Result<Usage, LayerError> {
        let stat = rustix::fs::fstatvfs(&self.mount).at(Layer::Volume, || "statfs of the volume".to_owned())?;
        Ok(Usage {
            used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            total_bytes: stat.f_blocks * stat.f_frsize,
            used_inodes: stat.f_files - stat.f_ffree,
            total_inodes: stat.f_files,
        })
    }

    /// Flushes it and unmounts it. When this returns without an error, nobody uses the image any more and all that was written is in it.
    ///
    /// # Errors
    /// What could not be written (`ENOSPC` or `EIO` where the host's disk was full); `EWOULDBLOCK` when others still have something open
    /// of it. It is unmounted all the same.
    pub fn detach(self) -> Result<(), LayerError> {
        let flushed = flush(&self.mount);
        self.unmount().at(Layer::Volume, || "unmount the volume".to_owned())?;
        let image = self.image.try_clone().at(Layer::Volume, || "keep the image open".to_owned())?;
        drop(self);
        lock(&image, Path::new("the volume"))?;
        flushed
    }

    fn unmount(&self) -> Result<(), Errno> {
        match rustix::mount::unmount(through(&self.mount), UnmountFlags::DETACH) {
            // It is attached nowhere (any more), or in another namespace.
            Err(Errno::INVAL) => Ok(()),
            done => done,
        }
    }
}

/// The mount: to be id-mapped while it is attached nowhere ([`crate::idmap::map`]), or attached by another process (`move_mount(2)`).
impl AsFd for Volume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // There is nobody to tell; what nobody uses is gone all the same.
        self.unmount().ok();
    }
}

/// A detached mount of what the device shows.
fn mount(device: &LoopDevice, image: &Path) -> Result<OwnedFd, LayerError> {
    let at = |call: &str| format!("{call} for {}", image.display());
    let fs = rustix::mount::fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)
        .at(Layer::Volume, || at("fsopen ext4"))
        .map_err(|error| error.remedy(NEEDS))?;
    rustix::mount::fsconfig_set_string(&fs, "source", device.path()).at(Layer::Volume, || at("fsconfig source"))?;
    rustix::mount::fsconfig_set_string(&fs, "errors", "remount-ro").at(Layer::Volume, || at("fsconfig errors"))?;
    for option in OPTIONS {
        rustix::mount::fsconfig_set_flag(&fs, option).at(Layer::Volume, || at(option))?;
    }
    rustix::mount::fsconfig_create(&fs).at(Layer::Volume, || at("mount ext4")).map_err(|error| match error.errno {
        Some(libc::EPERM) => error.remedy(NEEDS),
        _ => error.remedy(NOT_WHOLE),
    })?;
    rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .at(Layer::Volume, || at("fsmount"))
}

/// What a caller without the privilege is told.
pub const NEEDS: &str =
    "run agentd as root of the host: loop devices and mounts of disks are root's; an ordinary user's sandboxes write to memory";

/// What is to be done with what cannot be mounted.
const NOT_WHOLE: &str = "it is not a whole ext4 file system: repair it with e2fsck -f, or make a new one; dmesg says more";

/// Takes the root directory of a mount from everybody but the caller.
fn close_to_others(mount: &OwnedFd) -> Result<(), LayerError> {
    let root = root_of(mount)?;
    let stat = rustix::fs::fstat(&root).at(Layer::Volume, || "stat the volume".to_owned())?;
    if stat.st_mode & 0o7777 == 0o700 {
        return Ok(());
    }
    rustix::fs::fchmod(&root, Mode::from(0o700)).at(Layer::Volume, || "chmod 700 the volume".to_owned())
}

fn flush(mount: &OwnedFd) -> Result<(), LayerError> {
    rustix::fs::syncfs(root_of(mount)?).at(Layer::Volume, || "syncfs of the volume".to_owned())
}

fn root_of(mount: &OwnedFd) -> Result<OwnedFd, LayerError> {
    rustix::fs::openat(mount, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Volume, || "open the volume".to_owned())
}
