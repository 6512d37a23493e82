//! The errors of this crate.

use std::{io, path::PathBuf};

/// An error of building, opening or installing assets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssetError {
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation and its object.
        context: String,
        /// The cause.
        source: io::Error,
    },
    /// The given kernel cannot be used.
    #[error("read the kernel: {}: {reason} — \
        pass a Debian kernel package, a bzImage or an ELF kernel with --kernel", file.display())]
    Kernel {
        /// The file.
        file: PathBuf,
        /// The defect of the file.
        reason: String,
    },
    /// No usable kernel is installed on this host.
    #[error(
        "find a kernel: none with modules in /boot — find the package that linux-image-cloud-amd64 depends on (apt-cache \
         depends), fetch that package with apt-get download, and pass the .deb with --kernel"
    )]
    NoKernel,
    /// The kernel lacks a feature that a machine needs.
    #[error(
        "find the module {name}: kernel {release} has it neither built in nor as a loadable module — use a kernel package that \
         has it, such as Debian's linux-image-cloud-amd64"
    )]
    NoModule {
        /// The kernel's release.
        release: String,
        /// The missing module.
        name: String,
    },
    /// The root file system could not be created.
    #[error("create the root file system: {0}")]
    Root(String),
    /// The directory for the assets exists, and contains something other than assets.
    #[error(
        "write the guest assets: {}: exists, but contains other files — choose another directory with -o", .0.display()
    )]
    Occupied(PathBuf),
    /// A file of the assets is missing, or differs from the manifest.
    #[error("open the guest assets: {}: {reason} — run `agentd vm build --image REF|DIR`", path.display())]
    NotBuilt {
        /// The directory or the file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// The file is not a known release of Firecracker.
    #[error(
        "install Firecracker: {}: contains neither firecracker nor jailer of version {} (sha256 of the contents: {found}) — \
         see `agentd vm install-firecracker`",
        file.display(), crate::FIRECRACKER_VERSION
    )]
    NotARelease {
        /// The file.
        file: PathBuf,
        /// The digests of the contents of the file.
        found: String,
    },
}

/// Adds the failed operation to an I/O error.
pub(crate) trait IoContext<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, AssetError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, AssetError> {
        self.map_err(|error| AssetError::Io { context: context(), source: error.into() })
    }
}
