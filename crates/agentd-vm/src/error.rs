//! Why there are no assets.

use std::{io, path::PathBuf};

/// Why assets could not be made, found or installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssetError {
    /// A call of the system failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, and to what.
        context: String,
        /// Its cause.
        source: io::Error,
    },
    /// A kernel that cannot be used.
    #[error("{}: {reason} — give a Debian kernel package, a bzImage or an ELF kernel with --kernel", file.display())]
    Kernel {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no kernel on this machine that could be used.
    #[error(
        "no kernel with modules in /boot — get one: apt-get download linux-image-cloud-amd64 names the package it depends on, \
         apt-get download that one, and give the .deb with --kernel"
    )]
    NoKernel,
    /// A kernel without something that a machine needs.
    #[error(
        "kernel {release} has no {name}, built in or as a module — use a kernel package that has it, such as Debian's linux-image-cloud-amd64"
    )]
    NoModule {
        /// The kernel.
        release: String,
        /// The module.
        name: String,
    },
    /// The root file system could not be made.
    #[error("make the root file system: {0}")]
    Root(String),
    /// Something that assets consist of is not there, or is not what the manifest says.
    #[error("{}: {reason} — make it: agentd vm build --image REF|DIR", path.display())]
    NotBuilt {
        /// The directory or the file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that is none of the releases known here.
    #[error(
        "{}: it holds neither firecracker nor jailer of version {}; its sha256: {found} — see `agentd vm fetch-firecracker`",
        file.display(), crate::FIRECRACKER_VERSION
    )]
    NotARelease {
        /// The file.
        file: PathBuf,
        /// The digests that were found in it.
        found: String,
    },
}

/// Says what was being done when a call failed.
pub(crate) trait Context<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, AssetError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, AssetError> {
        self.map_err(|error| AssetError::Io { context: context(), source: error.into() })
    }
}
