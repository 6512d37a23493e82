//! Volumes: a size-limited file system on disk for the data that a sandbox writes. A volume is ext4 in a sparse file on a loop
//! device (`loop(4)`).
//!
//! **Why a file system in a file and not project quotas:** it works on every kernel and on every file system of the host. Many
//! kernels are built without quotas, and ext4 must have been mounted with `prjquota`.
//!
//! **A volume is released with its last user.** The kernel releases the loop device when its last user closes it
//! (`LO_FLAGS_AUTOCLEAR`); the mount is such a user. A volume that [`Volume::open`] returned and that has no mount point is
//! released when the process ends. A volume with a mount point is in a mount namespace and in every later copy of that namespace,
//! and exists as long as any of these namespaces. Volumes are therefore mounted in a private namespace (`mount_namespaces(7)`),
//! and never in the host's.
//!
//! **A volume is mounted once.** The image is locked (`flock(2)`), and the lock belongs to the open file of the loop device. The
//! kernel releases the lock with the device. The lock remains if the process that attached the volume dies, and while another
//! process still uses the mount.
//!
//! **When the host's disk is full**, the sparse file cannot grow. Data that was written and not yet flushed is lost, and
//! `fsync(2)` fails with `ENOSPC` or `EIO`. If a journal write fails, the file system becomes read-only (`errors=remount-ro`).
//! The alternatives are to continue with half of a change (`errors=continue`), or to panic the host (`errors=panic`, which a
//! superblock can request). All data flushed before is present at the next [`Volume::open`], once there is free space; the kernel
//! log then recommends an `e2fsck`.

mod format;
mod loop_device;
mod open;

use crate::{ErrnoContext, mount::attach_at};
use agentd_core::{Control, ControlError};
use agentd_log::LogFailure as _;
use loop_device::LoopDevice;
use open::{lock, open_image, open_named, proc_path};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

pub use format::{MIN_BYTES, image_bytes};

/// Mount options (`ext4(5)`) in addition to `errors`. `discard` returns the blocks of deleted files to the host, shortly after
/// the deletion. `noinit_itable` prevents the kernel from zeroing the inode tables of a sparse file in the background, which
/// would allocate 3 % of its size.
const OPTIONS: [&str; 2] = ["discard", "noinit_itable"];

/// A mounted volume, unmounted when dropped. Processes that have files of the volume open keep them until they close them.
#[derive(Debug)]
pub struct Volume {
    /// The mount (`fsmount(2)`). Unmounting uses this descriptor and not a path, because by then the path may lead to another
    /// mount.
    mount: OwnedFd,
    /// The image, opened a second time: this open file does not hold the lock, which belongs to the loop device.
    image: OwnedFd,
}

/// Directory in which unnamed volumes are allocated: `/var/tmp` is on a disk, because its content survives reboots (File System
/// Hierarchy Standard).
const NAMELESS: &str = "/var/tmp";

/// Usage of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in files, directories and attributes.
    pub used_bytes: u64,
    /// Capacity in bytes: the size of the image without its tables and its journal.
    pub total_bytes: u64,
    /// Files, directories and links.
    pub used_inodes: u64,
    /// Maximum number of inodes.
    pub total_inodes: u64,
}

impl Volume {
    /// Creates an image with an empty file system of `bytes` bytes, rounded down to whole blocks. The image is a sparse file with
    /// mode 600. It appears under its name only when complete (`open(2)`, `O_TMPFILE`). Needs no privilege.
    ///
    /// # Errors
    /// - `EEXIST`: the name is taken.
    /// - `EINVAL`: `bytes` is below [`MIN_BYTES`], or `image` does not end in a file name.
    /// - `ELOOP`, `ENOTDIR`: a component of the parent directory is a symbolic link.
    /// - `ENOENT`: `mkfs.ext4` is missing.
    pub fn format(image: &Path, bytes: u64) -> Result<(), ControlError> {
        format::format(image, bytes)
    }

    /// Mounts `image` with `nosuid,nodev` and without a mount point. `image` must be accessible to the caller only. The root
    /// directory of the mount gets mode 700, because the volume may contain set-user-id files of untrusted users. Needs root of
    /// the host.
    ///
    /// The image must come from [`Volume::format`] and must have been written through mounts only: a forged file system can
    /// attack the kernel that mounts it.
    ///
    /// # Errors
    /// - `EWOULDBLOCK`: the image is already mounted.
    /// - `EACCES`, `EPERM`: the caller is not root of the host.
    /// - `ELOOP`, `ENOTDIR`: a component of the path is a symbolic link.
    /// - `EINVAL`: the image is not a complete ext4 file system.
    pub fn open(image: &Path) -> Result<Self, ControlError> {
        Self::over(open_image(image)?, image)
    }

    /// Creates and mounts an unnamed volume for the changes of one sandbox, with the empty directories `tree` and `work` in it.
    /// The mount has no mount point. The volume is deleted with its last user.
    ///
    /// # Errors
    /// The errors of [`Volume::format`] and [`Volume::open`].
    pub fn for_changes(bytes: u64) -> Result<OwnedFd, ControlError> {
        let folder = Path::new(NAMELESS);
        let volume = Self::over(format::nameless(folder, bytes)?, folder)?;
        for name in ["tree", "work"] {
            rustix::fs::mkdirat(&volume.mount, name, Mode::from(0o755))
                .during(Control::Volume, || format!("create the directory {name} in the volume"))?;
        }
        volume.mount.try_clone().during(Control::Volume, || "dup the descriptor of the volume".to_owned())
    }

    fn over(locked: OwnedFd, image: &Path) -> Result<Self, ControlError> {
        lock(&locked, image)?;
        let reopened = rustix::fs::open(proc_path(&locked), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .during(Control::Volume, || format!("reopen {}", image.display()))?;
        let device = LoopDevice::over(&locked, image)?;
        let mount = mount(&device, image)?;
        close_to_others(&mount)?;
        Ok(Self { mount, image: reopened })
    }

    /// Opens `image` and attaches the volume at the directory `place`, in this process's mount namespace.
    ///
    /// # Errors
    /// The errors of [`Volume::open`]; `ELOOP` and `ENOTDIR` also apply to `place`.
    pub fn attach(image: &Path, place: &Path) -> Result<Self, ControlError> {
        let at = open_named(place, OFlags::PATH | OFlags::DIRECTORY)?;
        let volume = Self::open(image)?;
        attach_at(&volume.mount, &at, place)?;
        Ok(volume)
    }

    /// Returns the usage of the volume (`statfs(2)`).
    ///
    /// # Errors
    /// The errno of `statfs(2)`.
    pub fn usage(&self) -> Result<Usage, ControlError> {
        let stat = rustix::fs::fstatvfs(&self.mount).during(Control::Volume, || "statfs of the volume".to_owned())?;
        Ok(Usage {
            used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            total_bytes: stat.f_blocks * stat.f_frsize,
            used_inodes: stat.f_files - stat.f_ffree,
            total_inodes: stat.f_files,
        })
    }

    /// Flushes and unmounts the volume. After success no process uses the image, and the image contains all data written.
    ///
    /// # Errors
    /// The errno of the flush (`ENOSPC` or `EIO` if the host's disk was full), or `EWOULDBLOCK` if other processes still have
    /// files of the volume open. The volume is unmounted in both cases.
    pub fn detach(self) -> Result<(), ControlError> {
        let flushed = flush(&self.mount);
        self.unmount().during(Control::Volume, || "unmount the volume".to_owned())?;
        let image = self.image.try_clone().during(Control::Volume, || "dup the descriptor of the image".to_owned())?;
        drop(self);
        lock(&image, Path::new("the volume"))?;
        flushed
    }

    fn unmount(&self) -> Result<(), Errno> {
        match rustix::mount::unmount(proc_path(&self.mount), UnmountFlags::DETACH) {
            // The mount is not attached, or is attached in another namespace.
            Err(Errno::INVAL) => Ok(()),
            done => done,
        }
    }
}

/// Returns the mount: for an id map while the mount is attached nowhere ([`crate::idmap::map`]), or for attaching by another
/// process (`move_mount(2)`).
impl AsFd for Volume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A destructor cannot return the error. An unused mount is still released.
        self.unmount().or_warn("unmount volume", &self.image);
    }
}

/// Creates a detached mount of the file system on `device`.
fn mount(device: &LoopDevice, image: &Path) -> Result<OwnedFd, ControlError> {
    let at = |call: &str| format!("{call} for {}", image.display());
    let fs = rustix::mount::fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)
        .during(Control::Volume, || at("fsopen ext4"))
        .map_err(|error| error.remedy(NEEDS))?;
    rustix::mount::fsconfig_set_string(&fs, "source", device.path()).during(Control::Volume, || at("fsconfig source"))?;
    rustix::mount::fsconfig_set_string(&fs, "errors", "remount-ro").during(Control::Volume, || at("fsconfig errors"))?;
    for option in OPTIONS {
        rustix::mount::fsconfig_set_flag(&fs, option).during(Control::Volume, || at(option))?;
    }
    rustix::mount::fsconfig_create(&fs).during(Control::Volume, || at("mount ext4")).map_err(|error| match error.errno {
        Some(libc::EPERM) => error.remedy(NEEDS),
        _ => error.remedy(NOT_WHOLE),
    })?;
    rustix::mount::fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
    .during(Control::Volume, || at("fsmount"))
}

/// Remedy for callers without the privilege to mount volumes.
pub const NEEDS: &str =
    "run agentd as root of the host, because only root may mount loop devices; an ordinary user's sandboxes write to memory";

/// Remedy for an image that cannot be mounted.
const NOT_WHOLE: &str =
    "the image is not a whole ext4 file system: repair it with e2fsck -f, or create a new one; see dmesg for details";

/// Sets mode 700 on the root directory of a mount.
fn close_to_others(mount: &OwnedFd) -> Result<(), ControlError> {
    let root = root_of(mount)?;
    let stat = rustix::fs::fstat(&root).during(Control::Volume, || "stat the volume".to_owned())?;
    if stat.st_mode & 0o7777 == 0o700 {
        return Ok(());
    }
    rustix::fs::fchmod(&root, Mode::from(0o700)).during(Control::Volume, || "chmod 700 the volume".to_owned())
}

fn flush(mount: &OwnedFd) -> Result<(), ControlError> {
    rustix::fs::syncfs(root_of(mount)?).during(Control::Volume, || "syncfs of the volume".to_owned())
}

fn root_of(mount: &OwnedFd) -> Result<OwnedFd, ControlError> {
    rustix::fs::openat(mount, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(Control::Volume, || "open the volume".to_owned())
}
