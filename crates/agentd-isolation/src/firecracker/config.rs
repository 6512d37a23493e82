//! Where the backend finds what it needs.

use std::path::{Path, PathBuf};

/// Where Firecracker's programs and the assets of its machines are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirecrackerConfig {
    /// The directory with `firecracker` and `jailer`, as `agentd vm fetch-firecracker` installs them.
    pub programs: PathBuf,
    /// The directory that `agentd vm build` makes.
    pub assets: PathBuf,
}

impl FirecrackerConfig {
    /// The places in agentd's data directory.
    pub fn below(data: &Path) -> Self {
        let vm = data.join("vm");
        Self { programs: vm.join("bin"), assets: vm.join("default") }
    }
}
