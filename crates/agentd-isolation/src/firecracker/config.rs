//! Where the backend finds what it needs.

use super::{FirecrackerBackend, room};
use agentd_core::IsolationError;
use agentd_vm::Assets;
use std::{
    fs::File,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

/// Where Firecracker's programs and the assets of its machines are, and where machines have their files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FirecrackerConfig {
    /// The directory with `firecracker` and `jailer`, as `agentd vm fetch-firecracker` installs them.
    pub programs: PathBuf,
    /// The directory that `agentd vm build` makes.
    pub assets: PathBuf,
    /// Where each machine has a folder. Its file system must allow device nodes (no `nodev`), which the jailer makes.
    pub machines: PathBuf,
    /// Where snapshots of machines that have booted are kept.
    pub templates: PathBuf,
    /// Where empty disks are kept, to be copied.
    pub disks: PathBuf,
    /// How fast a machine may use each of its two disks.
    pub disk_rate: DiskRate,
}

/// A bound of what goes to and comes from a disk, so that no machine takes the host's from all others. As much as may pass in a second may
/// pass at once. Firecracker keeps it (`src/vmm/src/rate_limiter`), whatever the guest's kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRate {
    /// Bytes a second.
    pub bytes: NonZeroU64,
    /// Requests a second.
    pub requests: NonZeroU64,
}

impl Default for DiskRate {
    /// 512 MiB and 20000 requests a second: what a machine of its own with one SATA disk would have.
    fn default() -> Self {
        let at_least_one = |number| NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN);
        Self { bytes: at_least_one(512 << 20), requests: at_least_one(20_000) }
    }
}

impl FirecrackerConfig {
    /// The places in agentd's data directory.
    pub fn below(data: &Path) -> Self {
        let vm = data.join("vm");
        Self {
            programs: vm.join("bin"),
            assets: vm.join("default"),
            machines: vm.join("machines"),
            templates: vm.join("templates"),
            disks: vm.join("disks"),
            disk_rate: DiskRate::default(),
        }
    }

    /// The assets, when all that a machine needs is there.
    ///
    /// # Errors
    /// The first thing that is missing, and the command that provides it.
    pub(super) fn assets(&self) -> Result<Assets, IsolationError> {
        let missing = |what: String| Err(unavailable(what));
        if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
            return missing(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "/dev/kvm is not there — load the module kvm-intel or kvm-amd; in a virtual machine, \
                     its host must allow nested virtualisation; in a container, start it with --device /dev/kvm"
                        .to_owned()
                }
                _ => format!("/dev/kvm: {error} — join its group: usermod -aG kvm USER"),
            });
        }
        let jailer = rustix::process::geteuid().is_root().then_some(room::JAILER);
        for program in [room::FIRECRACKER].into_iter().chain(jailer) {
            let path = self.programs.join(program);
            if !path.is_file() {
                return missing(format!("{} is not there — agentd vm fetch-firecracker", path.display()));
            }
        }
        Assets::open(&self.assets).map_err(|error| unavailable(error.to_string()))
    }
}

/// What this backend lacks here.
pub(super) fn unavailable(reason: String) -> IsolationError {
    IsolationError::Unavailable { backend: FirecrackerBackend::NAME.to_owned(), reason }
}
