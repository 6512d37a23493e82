//! What a directory of assets holds, in `manifest.json` beside them.

use serde::{Deserialize, Serialize};

/// The form of the manifest that is written here.
pub(crate) const FORMAT: u32 = 1;

/// What assets are and what they were made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of this file.
    pub format: u32,
    /// The kernel.
    pub kernel: Kernel,
    /// The modules, in the order in which they are loaded.
    pub modules: Vec<String>,
    /// What the root file system was made of, in words.
    pub source: String,
    /// `vmlinux`, an ELF file.
    pub vmlinux: FileDigest,
    /// `modules.cpio`, the first part of the initramfs.
    pub modules_cpio: FileDigest,
    /// `root.ext4`, which is not written to.
    pub root_ext4: FileDigest,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// What `uname -r` says in it; empty when the file did not tell.
    pub release: String,
}

/// A file by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}
