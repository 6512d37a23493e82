//! The directory of all sandboxes and what may be asked of it.
//!
//! ```text
//! root/                      0700, its owner's alone
//! ├── lock                   held (flock) for each step that must be one: never for long
//! ├── named/<name>/          a sandbox: its `record.json`, and `log` for whoever runs it
//! ├── layers/<id>/           changes: `tree`, and `work` beside it; or a link to these in a volume
//! ├── volumes/<id>/          `image`: the file system in which the layers of a sandbox with a limit are; `at`: where it is mounted
//! ├── staging/<id>/          what is being made or removed, or layers that are in use; held (flock) by its maker
//! └── promised/              sandboxes that are to appear together, while they do
//! ```
//!
//! **Why a crash leaves it consistent.** A layer, a sandbox and each change of its record come into being by one `rename`. Layers
//! come first and records after, so everything that a record names is there; what no record names is [`State::collect`]ed. All else
//! is in a staging directory, and the next [`State::open`] removes those whose maker is dead: the kernel gave up its lock with it.
//!
//! **Why it is safe beside others.** What is long is done without the lock, on layers that are pinned in a staging directory; then,
//! under the lock, the record is read anew and changed only if what was done is still right for it.
//!
//! **What a power failure takes.** No record, and no layer of one. What is *in* a layer is on the disk when the kernel has written it, as
//! with all files, some tens of seconds after a payload wrote it: a snapshot that waited for that would take the longer, the more is in it.

mod collect;
mod diff;
mod fork;
mod fsck;
mod hold;
mod named;
mod promise;
mod restore;
mod run;
mod seal;
mod snapshot;
mod squash;
mod volumes;

pub use collect::Collected;
pub use fork::Of;
pub use fsck::Problem;
pub use hold::Hold;
pub use seal::How;
pub use squash::Squashed;
pub use volumes::Disk;

use crate::{
    error::{Doing as _, StateError},
    layer,
    layer_id::LayerId,
    mounts::Mounts,
    name::Name,
    record::{Record, exists},
};
use agentd_core::DiskLayers;
use agentd_disk::{Lock, NotPrivate, Staging, entries};
use agentd_kernel::mount::OwnMounts;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// All sandboxes of one directory. Any number of these, in any number of processes, may be open on it.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
    /// The volumes that are mounted, where any can be.
    mounts: Option<Arc<Mounts>>,
}

impl State {
    /// Opens the directory `root`, which is made if it is not there, and removes what the dead left in it.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        make_private(root)?;
        // Absolute: the paths that are given out outlive the caller's working directory.
        let state = Self { root: fs::canonicalize(root).doing("find", root)?, mounts: None };
        for folder in [state.named(), state.layers(), state.volumes(), state.staging()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).doing("make", &folder)?;
        }
        // What cannot be removed does not keep anybody from his sandboxes: fsck finds it, and collecting it says why.
        drop(state.abandoned()?);
        Ok(state)
    }

    /// The same, for a process that can have sandboxes with a limit, whose volumes it mounts in its own namespace when they are needed.
    pub fn open_with_volumes(root: &Path, own: OwnMounts) -> Result<Self, StateError> {
        Ok(Self { mounts: Some(Arc::new(Mounts::new(own))), ..Self::open(root)? })
    }

    /// Where the layers of a sandbox are; those in volumes only as long as it is held.
    pub fn layer_paths(&self, record: &Record) -> DiskLayers {
        let sealed = record.sealed.iter().map(|layer| layer::tree(&self.place_of(*layer))).collect();
        DiskLayers { sealed, top: self.place_of(record.top) }
    }

    /// Before a sandbox that is held is mounted: empties the `work` of its top, which nobody may have mounted. What overlayfs leaves there after
    /// a crash (`work/incompat/volatile`) forbids the next mount. Where its disk is full, what is kept for this is given up.
    pub fn before_mount(&self, record: &Record) -> Result<(), StateError> {
        layer::fresh_work(&self.layer(record.top))?;
        self.home_of(record.top)?.map_or(Ok(()), |home| home.give_up_reserve())
    }

    /// After that, before anything runs in it: the same is kept again.
    pub fn after_mount(&self, record: &Record) -> Result<(), StateError> {
        let Some(home) = self.home_of(record.top)? else { return Ok(()) };
        match home.keep_reserve(&self.lock()?) {
            // What was given up for it is used up by it: it runs, and can be freed from inside.
            Err(error) if self.is_full(&error) => Ok(()),
            kept => kept,
        }
    }

    /// Where whoever runs a sandbox keeps what its commands said. It goes with the sandbox.
    pub fn log_directory(&self, name: &Name) -> PathBuf {
        self.sandbox(name).join("log")
    }

    /// What the dead left in staging; it goes when it is dropped.
    fn abandoned(&self) -> Result<Vec<Staging>, StateError> {
        Ok(agentd_disk::abandoned(&self.staging(), &self.lock()?)?)
    }

    /// The layers that are pinned by anything staged.
    fn pinned(&self, lock: &Lock) -> Result<impl Iterator<Item = LayerId> + use<>, StateError> {
        Ok(agentd_disk::pinned(&self.staging(), lock)?.into_iter().filter_map(|pin| pin.parse().ok()))
    }

    /// Waits for the lock, and keeps the promise of one who died over it.
    fn lock(&self) -> Result<Lock, StateError> {
        let lock = Lock::take(&self.root.join("lock"))?;
        self.keep_promise(&lock)?;
        Ok(lock)
    }

    fn stage(&self, lock: &Lock) -> Result<Staging, StateError> {
        Ok(Staging::make(&self.staging(), lock)?)
    }

    /// The record of a sandbox.
    fn load(&self, name: &Name) -> Result<Record, StateError> {
        let directory = self.sandbox(name);
        match Record::read(&directory, name)? {
            Ok(record) => Ok(record),
            Err(_) if !exists(&directory)? => Err(StateError::NotFound { name: name.clone() }),
            Err(damage) => Err(StateError::Damaged { name: name.clone(), damage }),
        }
    }

    /// Every record. One that is damaged is an error: what it needs is not known.
    fn load_all(&self, _lock: &Lock) -> Result<Vec<Record>, StateError> {
        self.names()?.iter().map(|name| self.load(name)).collect()
    }

    /// Puts a record in the place of what it was.
    fn replace(&self, record: &Record, _lock: &Lock) -> Result<(), StateError> {
        // One name will do for all: who writes has the lock.
        record.write(&self.sandbox(&record.name), &self.staging().join("draft"))
    }

    /// The names of all sandboxes, sorted.
    fn names(&self) -> Result<Vec<Name>, StateError> {
        let name = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(entries(&self.named())?.into_iter().filter_map(name).collect())
    }

    /// Makes durable that layers came, which a record is about to name.
    fn flush_layers(&self) -> Result<(), StateError> {
        Ok(agentd_disk::flush_directory(&self.layers())?)
    }

    fn named(&self) -> PathBuf {
        self.root.join("named")
    }

    fn sandbox(&self, name: &Name) -> PathBuf {
        self.named().join(name)
    }

    fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn layer(&self, layer: LayerId) -> PathBuf {
        self.layers().join(layer.to_string())
    }

    fn tree(&self, layer: LayerId) -> PathBuf {
        layer::tree(&self.layer(layer))
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }
}

/// Makes the directory, or checks that it is ours alone.
fn make_private(root: &Path) -> Result<(), StateError> {
    agentd_disk::make_private(root).map_err(|error| match error {
        NotPrivate::Disk(error) => error.into(),
        NotPrivate::Refused(why) => StateError::Place { path: root.to_owned(), why },
    })
}
