//! Machines that have booted and wait for a host, as snapshots: every further machine of that size goes on from one of them instead of
//! booting. It has no secret, no identity and no sandbox yet, all of which it is given when it is attached to.

use super::{FirecrackerConfig, size::Size, snapshot, vm::Vm};
use crate::store;
use agentd_core::IsolationError;
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

/// How many are kept, the last used.
const KEPT: usize = 4;

/// Locked while one is made or removed.
const TURN: &str = "lock";

/// Locked, shared, by who starts a machine from it; and its time of change says when that was last.
const USED: &str = "used";

/// Where templates are kept.
pub(super) struct Templates {
    folder: PathBuf,
    /// What all of this process's depend on.
    common: Sha256,
}

/// One, not to be removed while this lives.
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
    /// Those of the configured assets, for this program on this machine since it was started.
    pub(super) fn of(config: &FirecrackerConfig) -> io::Result<Self> {
        let mut common = Sha256::new();
        let program = fs::metadata("/proc/self/exe")?;
        let times = [program.mtime(), program.mtime_nsec(), program.ctime(), program.ctime_nsec()];
        common.update(format!("{FIRECRACKER_VERSION} {} {} {} {times:?}\n", program.dev(), program.ino(), program.size()));
        // Not only another machine has other processors: the same one may after its next start.
        common.update(fs::read("/proc/sys/kernel/random/boot_id")?);
        common.update(fs::read(config.assets.join("manifest.json"))?);
        common.update(format!("{:?}\n", config.disk_rate));
        Ok(Self { folder: config.templates.clone(), common })
    }

    fn place(&self, size: Size) -> PathBuf {
        let digest = self.common.clone().chain_update(format!("{size:?}")).finalize();
        self.folder.join(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// That of machines of a size, if there is one.
    pub(super) fn find(&self, size: Size) -> Option<Template> {
        let folder = self.place(size);
        let used = File::options().write(true).open(folder.join(USED)).ok()?;
        rustix::fs::flock(&used, FlockOperation::NonBlockingLockShared).ok()?;
        // It was removed in between.
        used.metadata().ok().filter(|meta| meta.nlink() > 0)?;
        used.set_modified(SystemTime::now()).ok();
        Some(Template { folder, _used: used })
    }

    /// Makes one of a machine that has just booted, and goes on afterwards. Nothing is made when somebody else is making one: that is as
    /// good.
    pub(super) async fn make(&self, size: Size, vm: &Vm) -> Result<(), IsolationError> {
        let failed =
            |source: io::Error| IsolationError::Io { context: format!("keep a template in {}", self.folder.display()), source };
        store::private(&self.folder).map_err(failed)?;
        let turn = File::options().create(true).truncate(false).write(true).open(self.folder.join(TURN)).map_err(failed)?;
        if rustix::fs::flock(&turn, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let (place, folder) = (self.place(size), self.folder.clone());
        vm.save(move |written, disk| {
            clear(&folder);
            let failed = |source: io::Error| IsolationError::Io { context: format!("make {}", place.display()), source };
            // Left by one that was killed: whoever has the turn is alone here.
            let fresh = place.with_extension("new");
            fs::remove_dir_all(&fresh).or_else(absent).map_err(failed)?;
            store::private(&fresh).map_err(failed)?;
            snapshot::keep(written, disk, &fresh)?;
            File::create_new(fresh.join(USED)).map_err(failed)?;
            fs::remove_dir_all(&place).or_else(absent).map_err(failed)?;
            fs::rename(&fresh, &place).map_err(failed)
        })
        .await
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes all but those that were used last, which are not in use. What cannot be removed is met again.
fn clear(folder: &Path) {
    let mut others: Vec<(SystemTime, PathBuf, File)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let used = File::open(entry.path().join(USED)).ok()?;
            Some((used.metadata().ok()?.modified().ok()?, entry.path(), used))
        })
        .collect();
    others.sort_by_key(|(when, ..)| std::cmp::Reverse(*when));
    for (_, path, used) in others.into_iter().skip(KEPT - 1) {
        if rustix::fs::flock(&used, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn those_used_last_and_those_in_use_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut open = Vec::new();
        for number in 0..6u64 {
            let folder = dir.path().join(number.to_string());
            fs::create_dir(&folder).unwrap();
            let used = File::create(folder.join(USED)).unwrap();
            used.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(number)).unwrap();
            open.push(used);
        }
        rustix::fs::flock(&open[0], FlockOperation::LockShared).unwrap();
        clear(dir.path());
        let left = |number: u64| dir.path().join(number.to_string()).exists();
        assert_eq!((0..6).map(left).collect::<Vec<_>>(), [true, false, false, true, true, true]);
    }
}
