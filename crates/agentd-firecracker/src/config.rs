//! The configuration of the backend: the paths of programs, assets and machines, and the disk rate.

use super::files;
use agentd_core::IsolationError;
use agentd_isolation::data_directory;
use agentd_vm::Assets;
use std::{
    fs::File,
    io,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

/// The canonical name of the backend.
pub(super) const NAME: &str = "firecracker";

/// The paths of Firecracker's programs, of the assets and of the files of machines, and the disk rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerConfig {
    /// The directory in which the probe creates the targets of its attacks.
    pub work_root: PathBuf,
    /// The directory with `firecracker` and `jailer`, as `agentd vm install-firecracker` installs them.
    pub programs: PathBuf,
    /// The directory that `agentd vm build` creates.
    pub assets: PathBuf,
    /// The directory with one folder per machine. Its file system must allow device nodes (no `nodev`), because the jailer
    /// creates some.
    pub machines: PathBuf,
    /// The directory with the snapshots of booted machines.
    pub templates: PathBuf,
    /// The cache of empty disks, one per size, that new machines copy.
    pub disks: PathBuf,
    /// The rate limit of each of the two disks of a machine.
    pub disk_rate: DiskRate,
}

/// A rate limit for one disk, so that no machine uses all of the host's disk bandwidth. A burst may use the allowance of one
/// second at once. Firecracker enforces the limit (`src/vmm/src/rate_limiter`), independently of the guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRate {
    /// Bytes per second.
    pub bytes: NonZeroU64,
    /// Requests per second.
    pub requests: NonZeroU64,
}

impl Default for DiskRate {
    /// Returns 512 MiB and 20000 requests per second, about the rate of one SATA disk.
    fn default() -> Self {
        let at_least_one = |number| NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN);
        Self { bytes: at_least_one(512 << 20), requests: at_least_one(20_000) }
    }
}

impl Default for FirecrackerConfig {
    /// Returns the paths in agentd's data directory. Without a data directory, the paths other than `work_root` are empty, and
    /// [`FirecrackerBackend::new`](super::FirecrackerBackend::new) refuses them.
    fn default() -> Self {
        let nowhere = PathBuf::new;
        data_directory().map(|data| Self::in_data_dir(&data)).unwrap_or_else(|| Self {
            work_root: std::env::temp_dir(),
            programs: nowhere(),
            assets: nowhere(),
            machines: nowhere(),
            templates: nowhere(),
            disks: nowhere(),
            disk_rate: DiskRate::default(),
        })
    }
}

impl FirecrackerConfig {
    /// Returns all folders whose content the backend executes or trusts.
    pub(super) fn folders(&self) -> [&Path; 5] {
        [&self.programs, &self.assets, &self.machines, &self.templates, &self.disks].map(PathBuf::as_path)
    }

    /// Returns the configuration with all paths except `work_root` below agentd's data directory `data`.
    pub fn in_data_dir(data: &Path) -> Self {
        let vm = data.join("vm");
        Self {
            work_root: std::env::temp_dir(),
            programs: vm.join("bin"),
            assets: vm.join("default"),
            machines: vm.join("machines"),
            templates: vm.join("templates"),
            disks: vm.join("disks"),
            disk_rate: DiskRate::default(),
        }
    }

    /// Returns the files below agentd's data directory, and the device, on which a proof of this backend depends.
    pub fn proof_files(data: &Path) -> Vec<PathBuf> {
        let config = Self::in_data_dir(data);
        let programs = [files::FIRECRACKER, files::JAILER].map(|name| config.programs.join(name));
        programs.into_iter().chain([config.assets.join("manifest.json"), PathBuf::from("/dev/kvm")]).collect()
    }

    /// Opens the assets, after checking that `/dev/kvm` and Firecracker's programs can be used.
    ///
    /// # Errors
    /// [`IsolationError::Unavailable`] names the first missing item and the command that provides it.
    pub(super) fn assets(&self) -> Result<Assets, IsolationError> {
        let missing = |what: String| Err(unavailable(what));
        let is_root = rustix::process::geteuid().is_root();
        if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
            return missing(kvm_problem(&error, is_root));
        }
        let jailer = is_root.then_some(files::JAILER);
        for program in [files::FIRECRACKER].into_iter().chain(jailer) {
            let path = self.programs.join(program);
            if !path.is_file() {
                return missing(format!("{} does not exist — run `agentd vm install-firecracker`", path.display()));
            }
        }
        Assets::open(&self.assets).map_err(|error| unavailable(error.to_string()))
    }
}

/// Returns the reason why `/dev/kvm` cannot be opened, and what to do.
fn kvm_problem(error: &io::Error, is_root: bool) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "/dev/kvm does not exist — load the kernel module kvm-intel or kvm-amd; in a virtual machine, \
                                    enable nested virtualisation on its host; in a container, start it with --device /dev/kvm"
                .to_owned()
        }
        // EPERM comes from the device rules of a container, which no group of the user changes.
        io::ErrorKind::PermissionDenied if error.raw_os_error() == Some(libc::EACCES) && !is_root => {
            format!("/dev/kvm: {error} — add your user to the group of /dev/kvm (usermod -aG kvm USER), then log in again")
        }
        _ => format!(
            "/dev/kvm: {error} — check the virtualisation of this host (in a container, start it with --device /dev/kvm), or use \
             --backend gondolin, which also works without KVM"
        ),
    }
}

/// The remedy if a machine does not start, for which the cause is usually in the host's KVM or in the assets.
pub(super) const REMEDY: &str =
    "run `agentd doctor --backend firecracker`; if it reports the same error, run `agentd vm build` again";

/// Returns the error for a missing requirement of this backend.
pub(super) fn unavailable(reason: String) -> IsolationError {
    IsolationError::Unavailable { backend: NAME.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_about_kvm_depends_on_errno_and_user() {
        for (errno, is_root, advice) in [
            (libc::ENOENT, false, "kvm-intel"),
            (libc::EACCES, false, "log in again"),
            (libc::EACCES, true, "--device /dev/kvm"),
            (libc::EPERM, false, "--device /dev/kvm"),
            (libc::EBUSY, false, "--backend gondolin"),
        ] {
            let problem = kvm_problem(&io::Error::from_raw_os_error(errno), is_root);
            assert!(problem.contains(advice), "{problem}");
            assert_eq!(problem.contains("usermod"), advice == "log in again", "{problem}");
        }
    }
}
