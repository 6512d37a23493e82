//! Templates: snapshots of booted machines whose agents wait for a host. Further machines of the same size resume from a template
//! instead of booting. A template holds no secret, identity or sandbox; a machine receives these when the host attaches to it.

use super::{FirecrackerConfig, size::Size, snapshot, vm::Vm};
use agentd_core::IsolationError;
use agentd_isolation::{blocking::blocking, store};
use agentd_log::LogFailure as _;
use agentd_vm::FIRECRACKER_VERSION;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The number of templates to keep. The least recently used are removed.
const MAX_TEMPLATES: usize = 4;

/// The lock file in the folder of templates, locked while a template is created or removed.
const LOCK_FILE: &str = "lock";

/// The lock file of one template, locked shared while a machine is started from it. The mtime is the time of the last use.
const USE_LOCK_FILE: &str = "used";

/// The folder of templates.
pub(super) struct Templates {
    folder: PathBuf,
    /// The hash state over everything that all templates of this process depend on.
    common: Sha256,
}

/// A template, which is not removed while this value exists.
pub(super) struct Template {
    folder: PathBuf,
    _used: File,
}

impl Template {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Templates {
    /// Returns the templates for the configured assets, this program and the current boot of the host. May block on disk I/O.
    pub(super) fn for_config(config: &FirecrackerConfig) -> io::Result<Self> {
        let mut common = Sha256::new();
        let program = fs::metadata("/proc/self/exe")?;
        let times = [program.mtime(), program.mtime_nsec(), program.ctime(), program.ctime_nsec()];
        common.update(format!("{FIRECRACKER_VERSION} {} {} {} {times:?}\n", program.dev(), program.ino(), program.size()));
        // Another host has other CPUs, and so may this host after a reboot.
        common.update(fs::read("/proc/sys/kernel/random/boot_id")?);
        common.update(fs::read(config.assets.join("manifest.json"))?);
        common.update(format!("{:?}\n", config.disk_rate));
        Ok(Self { folder: config.templates.clone(), common })
    }

    fn place(&self, size: Size) -> PathBuf {
        let digest = self.common.clone().chain_update(format!("{size:?}")).finalize();
        self.folder.join(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// Returns the template for a size, if there is one. May block on disk I/O.
    pub(super) fn find(&self, size: Size) -> Option<Template> {
        let folder = self.place(size);
        let used = File::options().write(true).open(folder.join(USE_LOCK_FILE)).ok()?;
        rustix::fs::flock(&used, FlockOperation::NonBlockingLockShared).ok()?;
        // The template was removed between `open` and `flock`.
        used.metadata().ok().filter(|meta| meta.nlink() > 0)?;
        used.set_modified(SystemTime::now()).or_debug("record the use of a template", &folder);
        Some(Template { folder, _used: used })
    }

    /// Creates a template from a machine that has just booted; the machine resumes afterwards. Does nothing if another process is
    /// creating or removing a template at the moment.
    pub(super) async fn make(&self, size: Size, vm: &Vm) -> Result<(), IsolationError> {
        let (place, folder) = (self.place(size), self.folder.clone());
        let locked = folder.clone();
        let Some(lock) = blocking(move || lock_folder(&locked)).await? else { return Ok(()) };
        vm.save(move |written, disk| {
            // The lock is held until the files are in place, even if the caller is cancelled in the meantime.
            let _lock = lock;
            clear(&folder);
            let failed =
                |source: io::Error| IsolationError::Io { context: format!("create template {}", place.display()), source };
            // A process that was killed may have left this directory. The lock excludes other users of it.
            let fresh = place.with_extension("new");
            fs::remove_dir_all(&fresh).or_else(ignore_not_found).map_err(failed)?;
            store::private(&fresh).map_err(failed)?;
            snapshot::keep(written, disk, &fresh)?;
            File::create_new(fresh.join(USE_LOCK_FILE)).map_err(failed)?;
            fs::remove_dir_all(&place).or_else(ignore_not_found).map_err(failed)?;
            fs::rename(&fresh, &place).map_err(failed)
        })
        .await
    }
}

/// Locks the folder of templates, and creates the folder if it is missing. Returns `None` if another process has the lock.
fn lock_folder(folder: &Path) -> Result<Option<File>, IsolationError> {
    let failed = |source: io::Error| IsolationError::Io { context: format!("save a template in {}", folder.display()), source };
    store::private(folder).map_err(failed)?;
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK_FILE)).map_err(failed)?;
    Ok(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(lock))
}

fn ignore_not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes all templates except the most recently used [`MAX_TEMPLATES`] - 1 and those in use. The next call retries failed
/// removals.
fn clear(folder: &Path) {
    let mut others: Vec<(SystemTime, PathBuf, File)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let used = File::open(entry.path().join(USE_LOCK_FILE)).ok()?;
            Some((used.metadata().ok()?.modified().ok()?, entry.path(), used))
        })
        .collect();
    others.sort_by_key(|(when, ..)| std::cmp::Reverse(*when));
    for (_, path, used) in others.into_iter().skip(MAX_TEMPLATES - 1) {
        if rustix::fs::flock(&used, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(&path).or_warn("remove old template", &path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn clear_keeps_recently_used_and_locked_templates() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Vec::new();
        for number in 0..6u64 {
            let folder = dir.path().join(number.to_string());
            fs::create_dir(&folder).unwrap();
            let used = File::create(folder.join(USE_LOCK_FILE)).unwrap();
            used.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(number)).unwrap();
            open.push(used);
        }
        rustix::fs::flock(&open[0], FlockOperation::LockShared).unwrap();
        clear(dir.path());
        let left = |number: u64| dir.path().join(number.to_string()).exists();
        assert_eq!((0..6).map(left).collect::<Vec<_>>(), [true, false, false, true, true, true]);
    }
}
