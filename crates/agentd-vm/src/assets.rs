//! A directory of assets: opening and verification.

use crate::{
    error::{AssetError, IoContext},
    manifest::{FORMAT, FileDigest, Manifest},
    sha256,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub(crate) const VMLINUX: &str = "vmlinux";
pub(crate) const MODULES_CPIO: &str = "modules.cpio";
pub(crate) const ROOT_EXT4: &str = "root.ext4";
pub(crate) const MANIFEST: &str = "manifest.json";

/// A directory of assets whose files are present.
#[derive(Debug, Clone)]
pub struct Assets {
    dir: PathBuf,
    manifest: Manifest,
}

impl Assets {
    /// Opens the assets in `dir`. Each file must exist and have the length in the manifest. The contents are checked by
    /// [`Assets::verify`] only.
    ///
    /// # Errors
    /// [`AssetError::NotBuilt`] names the missing or wrong file, and the command that builds the assets.
    pub fn open(dir: &Path) -> Result<Self, AssetError> {
        let not_built = |path: PathBuf, reason: String| AssetError::NotBuilt { path, reason };
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(|error| not_built(path.clone(), error.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| not_built(path.clone(), error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(not_built(path, format!("unknown manifest format {}, expected {FORMAT}", manifest.format)));
        }
        let assets = Self { dir: dir.to_path_buf(), manifest };
        for (path, digest) in assets.files() {
            let length = fs::metadata(&path).map_err(|error| not_built(path.clone(), error.to_string()))?.len();
            if length != digest.bytes {
                return Err(not_built(path, format!("wrong size: {length} bytes, expected {}", digest.bytes)));
            }
        }
        Ok(assets)
    }

    /// Reads every file and compares its length and digest with the manifest.
    ///
    /// # Errors
    /// [`AssetError::NotBuilt`] for the first file that differs, and [`AssetError::Io`] for a file that cannot be read.
    pub fn verify(&self) -> Result<(), AssetError> {
        for (path, wanted) in self.files() {
            if digest(&path)? != *wanted {
                return Err(AssetError::NotBuilt {
                    path,
                    reason: "content does not match the digest in the manifest".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the path of the kernel, an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join(VMLINUX)
    }

    /// Returns the path of the first part of the initramfs: the directory `modules/` with the list `modules/order`.
    pub fn modules_cpio(&self) -> PathBuf {
        self.dir.join(MODULES_CPIO)
    }

    /// Returns the path of the root file system, which no machine writes to.
    pub fn root_ext4(&self) -> PathBuf {
        self.dir.join(ROOT_EXT4)
    }

    fn files(&self) -> [(PathBuf, &FileDigest); 3] {
        let manifest = &self.manifest;
        [
            (self.vmlinux(), &manifest.vmlinux),
            (self.modules_cpio(), &manifest.modules_cpio),
            (self.root_ext4(), &manifest.root_ext4),
        ]
    }
}

pub(crate) fn digest(path: &Path) -> Result<FileDigest, AssetError> {
    let (bytes, sha256) = sha256::of_file(path).context(|| format!("read {}", path.display()))?;
    Ok(FileDigest { bytes, sha256 })
}
