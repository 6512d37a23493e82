//! The volumes that this process has mounted, in a mount namespace of its own. They stay mounted for a while when nobody uses them any more:
//! unmounting one waits until all that was written is in it, and who uses it next would wait for that.

use crate::volume_id::VolumeId;
use agentd_core::LayerError;
use agentd_kernel::{mount::OwnMounts, volume::Volume};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long the end of another process is waited for that has a volume: a keeper that was killed, whose sandboxes are being ended, and what
/// these have written being flushed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// All of them.
#[derive(Debug)]
pub(crate) struct Mounts {
    _own: OwnMounts,
    all: Mutex<HashMap<VolumeId, Arc<Mutex<Place>>>>,
}

/// One, which may be mounted.
#[derive(Debug)]
struct Place {
    volume: Option<Volume>,
    users: usize,
    used: Instant,
}

/// Keeps volumes mounted, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Mounted(Vec<Used>);

#[derive(Debug)]
struct Used(Arc<Mutex<Place>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mounts {
    pub(crate) fn new(own: OwnMounts) -> Self {
        Self { _own: own, all: Mutex::default() }
    }

    /// Mounts a volume where it is not, and gives whether it was not.
    pub(crate) fn mount(&self, id: VolumeId, image: &Path, at: &Path, mounted: &mut Mounted) -> Result<bool, LayerError> {
        let fresh = || Arc::new(Mutex::new(Place { volume: None, users: 0, used: Instant::now() }));
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

    /// Those that are mounted.
    pub(crate) fn mounted(&self) -> BTreeSet<VolumeId> {
        let all: Vec<_> = locked(&self.all).iter().map(|(id, place)| (*id, place.clone())).collect();
        all.into_iter().filter(|(_, place)| locked(place).volume.is_some()).map(|(id, _)| id).collect()
    }

    /// Those of them that nobody uses now.
    pub(crate) fn unused(&self) -> BTreeSet<VolumeId> {
        let all: Vec<_> = locked(&self.all).iter().map(|(id, place)| (*id, place.clone())).collect();
        let unused = |place: &Mutex<Place>| {
            let place = locked(place);
            place.volume.is_some() && place.users == 0
        };
        all.into_iter().filter(|(_, place)| unused(place)).map(|(id, _)| id).collect()
    }

    /// Unmounts those that nobody has used for so long.
    pub(crate) fn rest(&self, unused: Duration) {
        let all: Vec<_> = locked(&self.all).values().cloned().collect();
        all.iter().for_each(|place| unmount(place, unused));
        self.tidy();
    }

    /// Unmounts one, unless somebody uses it; whether it is not mounted then.
    pub(crate) fn release(&self, id: VolumeId) -> bool {
        let Some(place) = locked(&self.all).get(&id).cloned() else { return true };
        unmount(&place, Duration::ZERO);
        let released = locked(&place).volume.is_none();
        drop(place);
        self.tidy();
        released
    }

    /// Forgets places in which nothing is and which nobody is about to use.
    fn tidy(&self) {
        locked(&self.all).retain(|_, place| Arc::strong_count(place) > 1 || locked(place).volume.is_some());
    }
}

fn unmount(place: &Mutex<Place>, unused: Duration) {
    let mut place = locked(place);
    if place.users == 0
        && place.used.elapsed() >= unused
        && let Some(volume) = place.volume.take()
    {
        // What could not be written, because the host's disk is full, the file system says to whoever flushes a file; here is nobody to tell.
        // A namespace that is just being made may have it still: it is gone with that, and who mounts it next waits.
        volume.detach().ok();
    }
}

fn attach(image: &Path, at: &Path) -> Result<Volume, LayerError> {
    let began = Instant::now();
    loop {
        match Volume::attach(image, at) {
            Err(error) if error.errno == Some(rustix::io::Errno::WOULDBLOCK.raw_os_error()) && began.elapsed() < PATIENCE => {
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
