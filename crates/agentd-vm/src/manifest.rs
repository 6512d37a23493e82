//! The manifest of a directory of assets: `manifest.json`, next to the assets.

use serde::{Deserialize, Serialize};

/// The current format version of the manifest.
pub(crate) const FORMAT: u32 = 1;

/// The contents and the origin of a directory of assets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format version of the manifest.
    pub format: u32,
    /// The kernel.
    pub kernel: Kernel,
    /// The names of the modules, in load order.
    pub modules: Vec<String>,
    /// A description of the source of the root file system.
    pub source: String,
    /// The digest of `vmlinux`, an ELF file.
    pub vmlinux: FileDigest,
    /// The digest of `modules.cpio`, the first part of the initramfs.
    pub modules_cpio: FileDigest,
    /// The digest of `root.ext4`, which no machine writes to.
    pub root_ext4: FileDigest,
}

/// The kernel of the assets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The release, as `uname -r` prints it. Empty if the kernel file did not contain one.
    pub release: String,
}

/// The length and the digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// The length in bytes.
    pub bytes: u64,
    /// The SHA-256 digest, in hexadecimal digits.
    pub sha256: String,
}
