//! The volumes that this process has mounted, in its own mount namespace. A volume stays mounted for a while after its last use:
//! unmounting waits until all data is written back, and the next user would wait for that.

use crate::volume_id::VolumeId;
use agentd_core::ControlError;
use agentd_kernel::{mount::OwnMounts, volume::Volume};
use agentd_log::LogFailure as _;
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// Timeout for another process that still has the volume, such as a killed daemon. Its sandboxes are being ended, and their data
/// is being written back.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// All volumes of this process.
#[derive(Debug)]
pub(crate) struct Mounts {
    _own: OwnMounts,
    all: Mutex<HashMap<VolumeId, Arc<Mutex<MountState>>>>,
}

/// One volume, mounted or not.
#[derive(Debug)]
struct MountState {
    volume: Option<Volume>,
    users: usize,
    used: Instant,
}

/// Keeps volumes mounted, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Mounted(Vec<Used>);

#[derive(Debug)]
struct Used(Arc<Mutex<MountState>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mounts {
    pub(crate) fn new(own: OwnMounts) -> Self {
        Self { _own: own, all: Mutex::default() }
    }

    /// Mounts the volume if necessary; returns true if this call mounted it. The volume stays mounted at least as long as
    /// `mounted` exists.
    pub(crate) fn mount(&self, id: VolumeId, image: &Path, at: &Path, mounted: &mut Mounted) -> Result<bool, ControlError> {
        let fresh = || Arc::new(Mutex::new(MountState { volume: None, users: 0, used: Instant::now() }));
        let place = locked(&self.all).entry(id).or_insert_with(fresh).clone();
        let mut found = locked(&place);
        let is_new = found.volume.is_none();
        if is_new {
            found.volume = Some(attach(image, at)?);
        }
        found.users += 1;
        drop(found);
        mounted.0.push(Used(place));
        Ok(is_new)
    }

    /// Returns the mounted volumes.
    pub(crate) fn mounted(&self) -> BTreeSet<VolumeId> {
        let all: Vec<_> = locked(&self.all).iter().map(|(id, place)| (*id, place.clone())).collect();
        all.into_iter().filter(|(_, place)| locked(place).volume.is_some()).map(|(id, _)| id).collect()
    }

    /// Returns the mounted volumes without a user.
    pub(crate) fn unused(&self) -> BTreeSet<VolumeId> {
        let all: Vec<_> = locked(&self.all).iter().map(|(id, place)| (*id, place.clone())).collect();
        let unused = |place: &Mutex<MountState>| {
            let place = locked(place);
            place.volume.is_some() && place.users == 0
        };
        all.into_iter().filter(|(_, place)| unused(place)).map(|(id, _)| id).collect()
    }

    /// Unmounts the volumes that have been without a user for at least `unused`.
    pub(crate) fn unmount_unused(&self, unused: Duration) {
        let all: Vec<_> = locked(&self.all).iter().map(|(id, place)| (*id, place.clone())).collect();
        all.iter().for_each(|(id, place)| unmount(*id, place, unused));
        self.forget_unmounted();
    }

    /// Unmounts one volume unless it has a user. Returns true if the volume is not mounted afterwards.
    pub(crate) fn release(&self, id: VolumeId) -> bool {
        let Some(place) = locked(&self.all).get(&id).cloned() else { return true };
        unmount(id, &place, Duration::ZERO);
        let released = locked(&place).volume.is_none();
        drop(place);
        self.forget_unmounted();
        released
    }

    /// Removes the entries of unmounted volumes that no caller is about to use.
    fn forget_unmounted(&self) {
        locked(&self.all).retain(|_, place| Arc::strong_count(place) > 1 || locked(place).volume.is_some());
    }
}

fn unmount(id: VolumeId, place: &Mutex<MountState>, unused: Duration) {
    let mut place = locked(place);
    if place.users == 0
        && place.used.elapsed() >= unused
        && let Some(volume) = place.volume.take()
    {
        // If write-back fails because the host's disk is full, the file system reports that to the process that flushes a file.
        // A mount namespace that is just being created may still have the mount: the next process that mounts the volume waits.
        volume.detach().or_warn("unmount volume", id);
    }
}

fn attach(image: &Path, at: &Path) -> Result<Volume, ControlError> {
    let began = Instant::now();
    loop {
        match Volume::attach(image, at) {
            Err(error) if error.errno == Some(rustix::io::Errno::WOULDBLOCK.raw_os_error()) && began.elapsed() < TIMEOUT => {
                sleep(PAUSE);
            }
            other => return other,
        }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        let mut place = locked(&self.0);
        place.users -= 1;
        place.used = Instant::now();
    }
}
