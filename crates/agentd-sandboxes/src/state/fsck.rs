//! Checks the whole state and reports problems.

use super::{
    directory::SandboxStore,
    volumes::{AT, IMAGE, size},
};
use crate::{
    error::StoreError,
    layer,
    layer_id::LayerId,
    name::Name,
    record::{FILE, Record},
    volume_id::VolumeId,
};
use agentd_disk::{Lock, entries};
use agentd_kernel::volume::image_bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    path::{Path, PathBuf},
};

/// A problem that [`SandboxStore::fsck`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A record cannot be read.
    Record(StoreError),
    /// A part of a layer that a sandbox needs is missing or is not a directory.
    Missing {
        /// The sandbox.
        name: Name,
        /// The part.
        path: PathBuf,
    },
    /// Two sandboxes have the same upper layer.
    SharedUpper {
        /// One of the sandboxes.
        name: Name,
        /// The other sandbox.
        other: Name,
        /// The layer.
        layer: LayerId,
    },
    /// The upper layer of a sandbox is a committed layer of a sandbox.
    CommittedUpper {
        /// The sandbox with the upper layer.
        name: Name,
        /// The sandbox with the committed layer.
        lower: Name,
        /// The layer.
        layer: LayerId,
    },
    /// The volume of a sandbox with a disk limit is missing or wrong.
    Volume {
        /// The sandbox.
        name: Name,
        /// The volume, or its image.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A layer or volume that nothing needs, or a leftover of a dead process. This is not damage: [`SandboxStore::collect`]
    /// removes it.
    Garbage(PathBuf),
    /// A file that agentd did not create. This is not damage.
    Unknown(PathBuf),
}

impl Problem {
    /// Returns true if the problem affects, or may affect, the contents of a sandbox.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Garbage(_) | Self::Unknown(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(error) => error.fmt(f),
            Self::Missing { name, path } => {
                write!(f, "sandbox {name} is damaged: {path:?} is missing — run `agentd sandbox rm {name}`")
            }
            Self::SharedUpper { name, other, layer } => {
                write!(
                    f,
                    "sandboxes {name} and {other} both have layer {layer} as their upper layer — remove one of them with \
                     `agentd sandbox rm`"
                )
            }
            Self::CommittedUpper { name, lower, layer } => {
                write!(
                    f,
                    "sandbox {name} writes to layer {layer}, a committed layer of sandbox {lower} — run \
                     `agentd sandbox rm {name}`"
                )
            }
            Self::Volume { name, path, why } => {
                write!(f, "sandbox {name} is damaged: {path:?} {why} — run `agentd sandbox rm {name}`")
            }
            Self::Garbage(path) => write!(f, "{path:?} is unused — it is removed by the next garbage collection"),
            Self::Unknown(path) => write!(f, "{path:?} was not created by agentd — remove it if you do not need it"),
        }
    }
}

impl SandboxStore {
    /// Checks the whole state and returns the problems found. The state is intact if no problem [is damage](Problem::is_damage).
    ///
    /// # Errors
    /// [`StoreError`] if a directory cannot be read.
    pub fn fsck(&self) -> Result<Vec<Problem>, StoreError> {
        // The volumes are mounted before the lock is taken, because mounting many volumes takes a long time. Volumes created in
        // the meantime are mounted during their check.
        let _mounted: Vec<_> = match &self.mounts {
            Some(_) => self.list()?.into_iter().flatten().filter_map(|record| self.mount(record.needs()).ok()).collect(),
            None => Vec::new(),
        };
        let lock = self.lock()?;
        let mut problems = Vec::new();
        let mut records = Vec::new();
        for name in self.names()? {
            match self.load(&name) {
                Ok(record) => records.push(record),
                Err(error) => problems.push(Problem::Record(error)),
            }
        }
        let all_read = problems.is_empty();
        records.iter().for_each(|record| self.examine(record, &mut problems));
        shared_upper_layers(&records, &mut problems);
        // The needs of an unreadable record are unknown, so garbage is reported only if all records were read.
        if all_read {
            let mut needed: HashSet<_> = records.iter().flat_map(Record::needs).collect();
            needed.extend(self.pinned(&lock)?);
            let layers = entries(&self.layers())?.into_iter();
            let garbage = layers.filter(|path| LayerId::from_path(path).is_some_and(|layer| !needed.contains(&layer)));
            problems.extend(garbage.map(Problem::Garbage));
            self.unneeded(&lock, &mut problems)?;
        }
        // Abandoned directories are only reported, not removed: `keep` unlocks each of them and leaves it in place.
        for left in agentd_disk::abandoned(&self.staging(), &lock)? {
            problems.push(Problem::Garbage(left.keep()));
        }
        self.unknown(&mut problems)?;
        Ok(problems)
    }

    /// Checks the layers of a sandbox and their volumes.
    fn examine(&self, record: &Record, problems: &mut Vec<Problem>) {
        let mut volumes = BTreeSet::new();
        let mut wrong = |path: PathBuf, why: &str| {
            problems.push(Problem::Volume { name: record.name.clone(), path, why: why.to_owned() });
        };
        for layer in record.needs().collect::<BTreeSet<_>>() {
            match self.volume_of(layer) {
                Ok(Some(volume)) => {
                    volumes.insert(volume);
                }
                Ok(None) if self.layer(layer).is_symlink() => {
                    wrong(self.layer(layer), "is a link that does not point to a volume")
                }
                Ok(None) => {}
                Err(error) => wrong(self.layer(layer), &error.to_string()),
            }
        }
        let own = self.volume_of(record.upper).ok().flatten();
        let limit = size(&record.about);
        if own.is_some() != limit.is_some() && self.layer(record.upper).exists() | own.is_some() {
            wrong(
                self.layer(record.upper),
                "is on a file system without the disk limit of the sandbox's record, or has a limit that the record lacks",
            );
        }
        let mut whole = true;
        for volume in volumes {
            let image = self.volume(volume).join(IMAGE);
            match image.symlink_metadata() {
                Ok(found) if !found.is_file() => wrong(image, "is not a regular file"),
                Ok(found) if Some(volume) == own && limit.is_some_and(|limit| image_bytes(limit) != found.len()) => {
                    wrong(image, "does not have the size in the sandbox's record");
                }
                Ok(_) => continue,
                Err(_) => wrong(image, "is missing"),
            }
            whole = false;
        }
        // The contents of a volume can be checked only if this process can mount it.
        if whole && (self.mounts.is_some() || own.is_none()) {
            match self.mount(record.needs()) {
                Ok(_mounted) => self.missing(record, problems),
                Err(error) => problems.push(Problem::Volume {
                    name: record.name.clone(),
                    path: self.volumes(),
                    why: format!("cannot be mounted: {error}"),
                }),
            }
        }
    }

    /// Reports volumes, and entries of mounted volumes, that no link refers to.
    fn unneeded(&self, lock: &Lock, problems: &mut Vec<Problem>) -> Result<(), StoreError> {
        let mut unreferenced = Vec::new();
        for volume in self.mounts.as_ref().map(|mounts| mounts.mounted()).unwrap_or_default() {
            unreferenced.extend(self.unreferenced(volume)?);
        }
        let pinned: HashSet<_> = agentd_disk::pinned(&self.staging(), lock)?.into_iter().collect();
        let linked = self.linked()?;
        let volumes = entries(&self.volumes())?.into_iter();
        unreferenced.extend(volumes.filter(|path| VolumeId::from_path(path).is_some_and(|volume| !linked.contains(&volume))));
        let is_pinned =
            |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| pinned.contains(name));
        problems.extend(unreferenced.into_iter().filter(|path| !is_pinned(path)).map(Problem::Garbage));
        Ok(())
    }

    /// Reports the missing parts of the layers of a sandbox.
    fn missing(&self, record: &Record, problems: &mut Vec<Problem>) {
        let needed: HashSet<_> = record.needs().collect();
        let trees = needed.into_iter().map(|layer| self.tree(layer));
        let missing = trees.chain([layer::workdir(&self.layer(record.upper))]).filter(|path| !is_directory(path));
        let mut missing: Vec<_> = missing.collect();
        missing.sort();
        problems.extend(missing.into_iter().map(|path| Problem::Missing { name: record.name.clone(), path }));
    }

    /// Reports unexpected files.
    fn unknown(&self, problems: &mut Vec<Problem>) -> Result<(), StoreError> {
        let mut look = |folder: &Path, known: &dyn Fn(&str) -> bool| -> Result<(), StoreError> {
            let unknown = |path: &PathBuf| !path.file_name().and_then(|name| name.to_str()).is_some_and(known);
            problems.extend(entries(folder)?.into_iter().filter(unknown).map(Problem::Unknown));
            Ok(())
        };
        look(&self.root, &|name| ["keeper", "lock", "named", "layers", "volumes", "staging"].contains(&name))?;
        look(&self.named_directory(), &|name| name.parse::<Name>().is_ok())?;
        look(&self.layers(), &|name| name.parse::<LayerId>().is_ok())?;
        look(&self.volumes(), &|name| name.parse::<VolumeId>().is_ok())?;
        for name in self.names()? {
            look(&self.sandbox(&name), &|name| [FILE, "log"].contains(&name))?;
        }
        for volume in entries(&self.volumes())?.iter().filter(|path| VolumeId::from_path(path).is_some()) {
            look(volume, &|name| [IMAGE, AT].contains(&name))?;
        }
        for layer in entries(&self.layers())?.iter().filter(|path| LayerId::from_path(path).is_some()) {
            look(layer, &|name| ["tree", "work"].contains(&name))?;
        }
        Ok(())
    }
}

/// Reports upper layers that belong to more than one sandbox.
fn shared_upper_layers(records: &[Record], problems: &mut Vec<Problem>) {
    let mut uppers: BTreeMap<LayerId, &Name> = BTreeMap::new();
    for Record { name, upper, .. } in records {
        if let Some(other) = uppers.insert(*upper, name) {
            problems.push(Problem::SharedUpper { name: other.clone(), other: name.clone(), layer: *upper });
        }
    }
    for record in records {
        let lower: HashSet<_> = record.stacks().flatten().collect();
        for layer in lower {
            if let Some(name) = uppers.get(layer) {
                problems.push(Problem::CommittedUpper { name: (*name).clone(), lower: record.name.clone(), layer: *layer });
            }
        }
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}
