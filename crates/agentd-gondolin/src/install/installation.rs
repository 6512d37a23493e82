//! An installation of Gondolin: its record and the paths of its parts.

use super::{error::SetupError, programs::NODE};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The version of Gondolin that agentd supports.
pub const GONDOLIN_VERSION: &str = "0.12.0";

/// The path of Gondolin's package below npm's directory.
pub(crate) const GONDOLIN: &str = "node_modules/@earendil-works/gondolin";

/// The names of the assets, which Gondolin prescribes.
pub(crate) const KERNEL: &str = "vmlinuz-virt";
pub(crate) const INITRAMFS: &str = "initramfs.cpio.lz4";
pub(crate) const ROOT: &str = "rootfs.ext4";

/// The file that names the parts.
pub(crate) const RECORD: &str = "installation.json";

/// The format version of the record.
const FORMAT: u32 = 1;

/// The record of an installation. The parts are directories next to it, given by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: u32,
    pub node: String,
    pub package: String,
    pub guest: String,
}

impl Record {
    pub(crate) fn new(node: &Path, package: &Path, guest: &Path) -> Self {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { format: FORMAT, node: name(node), package: name(package), guest: name(guest) }
    }
}

/// An installation of [`GONDOLIN_VERSION`].
#[derive(Debug, Clone)]
pub struct Installation {
    home: PathBuf,
    record: Record,
    disk_bytes: u64,
}

impl Installation {
    /// Opens the installation in `home`, after checking that its files exist.
    ///
    /// # Errors
    /// [`SetupError::NotInstalled`] names the missing or wrong file.
    pub fn open(home: &Path) -> Result<Self, SetupError> {
        let path = home.join(RECORD);
        let not_installed = |path: PathBuf, reason: String| SetupError::NotInstalled { path, reason };
        let text =
            fs::read(&path).map_err(|error| not_installed(path.clone(), format!("Gondolin is not installed ({error})")))?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| not_installed(path.clone(), error.to_string()))?;
        if record.format != FORMAT {
            return Err(not_installed(
                path,
                format!("written by another version of agentd (format {}, expected {FORMAT})", record.format),
            ));
        }
        let mut installation = Self { home: home.to_path_buf(), record, disk_bytes: 0 };
        let manifest = installation.package().join(GONDOLIN).join("package.json");
        let package = fs::read(&manifest).map_err(|error| not_installed(manifest.clone(), error.to_string()))?;
        let package: serde_json::Value =
            serde_json::from_slice(&package).map_err(|error| not_installed(manifest.clone(), error.to_string()))?;
        if package["version"] != GONDOLIN_VERSION {
            return Err(not_installed(
                manifest,
                format!("wrong version of Gondolin ({}, expected {GONDOLIN_VERSION})", package["version"]),
            ));
        }
        let guest = installation.guest();
        let metadata = |file: PathBuf| fs::metadata(&file).map_err(|error| not_installed(file, error.to_string()));
        for file in [installation.node(), guest.join(KERNEL), guest.join(INITRAMFS)] {
            metadata(file)?;
        }
        installation.disk_bytes = metadata(guest.join(ROOT))?.len();
        Ok(installation)
    }

    /// Returns the path of the program `node`.
    pub fn node(&self) -> PathBuf {
        self.home.join(&self.record.node).join(NODE)
    }

    /// Returns the directory with `node_modules`.
    pub fn package(&self) -> PathBuf {
        self.home.join(&self.record.package)
    }

    /// Returns the directory of the assets.
    pub fn guest(&self) -> PathBuf {
        self.home.join(&self.record.guest)
    }

    /// Returns the size of a machine's disk in bytes, which bounds what the machine can write to it.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Returns the path of the initramfs. Further archives may be appended to a copy.
    pub fn initramfs(&self) -> PathBuf {
        self.guest().join(INITRAMFS)
    }
}
