//! File names: of Firecracker's programs, of the files in Firecracker's root, and of the files of a snapshot.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Firecracker's program.
pub(super) const FIRECRACKER: &str = "firecracker";

/// The jailer's program.
pub(super) const JAILER: &str = "jailer";

/// The directory of assets, in Firecracker's root. A snapshot refers to this path, so it must stay the same for every machine.
pub(super) const ASSETS: &str = "assets";
/// The disk of the machine.
pub(super) const DISK: &str = "disk";
/// The initramfs.
pub(super) const INITRAMFS: &str = "initramfs";
/// The directory of the snapshot from which the machine is resumed.
pub(super) const SNAPSHOT: &str = "snapshot";
/// The directory into which Firecracker writes a snapshot.
pub(super) const OUT: &str = "out";

/// The state of devices and vCPUs, in a snapshot.
pub(super) const STATE: &str = "state";
/// The memory, in a snapshot.
pub(super) const MEMORY: &str = "memory";

/// Makes a file readable for Firecracker's user (mode 0444).
pub(super) fn readable(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}
