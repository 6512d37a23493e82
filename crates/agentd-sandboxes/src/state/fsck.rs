//! Reads everything and says what is wrong.

use super::{
    State,
    volumes::{AT, IMAGE, size},
};
use crate::{
    error::StateError,
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

/// What is not as it should be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A record cannot be read.
    Record(StateError),
    /// A part of a layer that a sandbox needs is not there, or is no directory.
    Missing {
        /// The sandbox.
        name: Name,
        /// The part.
        path: PathBuf,
    },
    /// Two sandboxes have the same top.
    SharedTop {
        /// The one.
        name: Name,
        /// The other.
        other: Name,
        /// The layer.
        layer: LayerId,
    },
    /// The top of a sandbox is a sealed layer of one.
    SealedTop {
        /// Whose top it is.
        name: Name,
        /// Whose sealed layer it is.
        sealed: Name,
        /// The layer.
        layer: LayerId,
    },
    /// The volume of a sandbox with a limit is not as it should be.
    Volume {
        /// The sandbox.
        name: Name,
        /// The volume, or its image.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing needs a layer or a volume, or who made this died. It is no damage: [`State::collect`] removes it.
    Garbage(PathBuf),
    /// Nobody knows what this is. It is no damage.
    Unknown(PathBuf),
}

impl Problem {
    /// Whether a sandbox is not, or may not be, what it was.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Garbage(_) | Self::Unknown(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record(error) => error.fmt(f),
            Self::Missing { name, path } => write!(f, "sandbox {name} is damaged: {path:?} is not there — remove the sandbox"),
            Self::SharedTop { name, other, layer } => {
                write!(f, "sandboxes {name} and {other} both write to layer {layer} — remove one of them")
            }
            Self::SealedTop { name, sealed, layer } => {
                write!(f, "sandbox {name} writes to layer {layer}, which is a sealed one of {sealed} — remove {name}")
            }
            Self::Volume { name, path, why } => write!(f, "sandbox {name} is damaged: {path:?} {why} — remove the sandbox"),
            Self::Garbage(path) => write!(f, "{path:?} is needed by nothing — collect it"),
            Self::Unknown(path) => write!(f, "{path:?} is nothing of agentd's — remove it if it is nothing of yours"),
        }
    }
}

impl State {
    /// Reads everything and says what is not as it should be. All is well when none of it [is damage](Problem::is_damage).
    pub fn fsck(&self) -> Result<Vec<Problem>, StateError> {
        // Before the lock is taken: of many, it takes long. What comes meanwhile is mounted when it is looked at.
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
        confused(&records, &mut problems);
        // What a record needs that cannot be read is not known.
        if all_read {
            let mut needed: HashSet<_> = records.iter().flat_map(Record::needs).collect();
            needed.extend(self.pinned(&lock)?);
            let layers = entries(&self.layers())?.into_iter();
            let garbage = layers.filter(|path| LayerId::of(path).is_some_and(|layer| !needed.contains(&layer)));
            problems.extend(garbage.map(Problem::Garbage));
            self.unneeded(&lock, &mut problems)?;
        }
        // Held until it is listed, and not removed: this only looks.
        for left in agentd_disk::abandoned(&self.staging(), &lock)? {
            problems.push(Problem::Garbage(left.leave()));
        }
        self.unknown(&mut problems)?;
        Ok(problems)
    }

    /// What is wrong with the layers of a sandbox, and with the volumes that they are in.
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
                Ok(None) if self.layer(layer).is_symlink() => wrong(self.layer(layer), "leads to no volume"),
                Ok(None) => {}
                Err(error) => wrong(self.layer(layer), &error.to_string()),
            }
        }
        let own = self.volume_of(record.top).ok().flatten();
        let limit = size(&record.about);
        if own.is_some() != limit.is_some() && self.layer(record.top).exists() | own.is_some() {
            wrong(self.layer(record.top), "is not where what a sandbox may keep has the limit that was asked for");
        }
        let mut whole = true;
        for volume in volumes {
            let image = self.volume(volume).join(IMAGE);
            match image.symlink_metadata() {
                Ok(found) if !found.is_file() => wrong(image, "is no file"),
                Ok(found) if Some(volume) == own && limit.is_some_and(|limit| image_bytes(limit) != found.len()) => {
                    wrong(image, "has another size than was asked for");
                }
                Ok(_) => continue,
                Err(_) => wrong(image, "is not there"),
            }
            whole = false;
        }
        // What is in a volume is seen where it can be mounted.
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

    /// Volumes, and what is in those that are mounted, that nothing leads to.
    fn unneeded(&self, lock: &Lock, problems: &mut Vec<Problem>) -> Result<(), StateError> {
        let mut strays = Vec::new();
        for volume in self.mounts.as_ref().map(|mounts| mounts.mounted()).unwrap_or_default() {
            strays.extend(self.strays(volume)?);
        }
        let pinned: HashSet<_> = agentd_disk::pinned(&self.staging(), lock)?.into_iter().collect();
        let linked = self.linked()?;
        let volumes = entries(&self.volumes())?.into_iter();
        strays.extend(volumes.filter(|path| VolumeId::of(path).is_some_and(|volume| !linked.contains(&volume))));
        let is_pinned =
            |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| pinned.contains(name));
        problems.extend(strays.into_iter().filter(|path| !is_pinned(path)).map(Problem::Garbage));
        Ok(())
    }

    /// The parts of its layers that a sandbox lacks.
    fn missing(&self, record: &Record, problems: &mut Vec<Problem>) {
        let needed: HashSet<_> = record.needs().collect();
        let trees = needed.into_iter().map(|layer| self.tree(layer));
        let missing = trees.chain([layer::work(&self.layer(record.top))]).filter(|path| !is_directory(path));
        let mut missing: Vec<_> = missing.collect();
        missing.sort();
        problems.extend(missing.into_iter().map(|path| Problem::Missing { name: record.name.clone(), path }));
    }

    /// What should not be where it is.
    fn unknown(&self, problems: &mut Vec<Problem>) -> Result<(), StateError> {
        let mut look = |folder: &Path, known: &dyn Fn(&str) -> bool| -> Result<(), StateError> {
            let unknown = |path: &PathBuf| !path.file_name().and_then(|name| name.to_str()).is_some_and(known);
            problems.extend(entries(folder)?.into_iter().filter(unknown).map(Problem::Unknown));
            Ok(())
        };
        look(&self.root, &|name| ["keeper", "lock", "named", "layers", "volumes", "staging"].contains(&name))?;
        look(&self.named(), &|name| name.parse::<Name>().is_ok())?;
        look(&self.layers(), &|name| name.parse::<LayerId>().is_ok())?;
        look(&self.volumes(), &|name| name.parse::<VolumeId>().is_ok())?;
        for name in self.names()? {
            look(&self.sandbox(&name), &|name| [FILE, "log"].contains(&name))?;
        }
        for volume in entries(&self.volumes())?.iter().filter(|path| VolumeId::of(path).is_some()) {
            look(volume, &|name| [IMAGE, AT].contains(&name))?;
        }
        for layer in entries(&self.layers())?.iter().filter(|path| LayerId::of(path).is_some()) {
            look(layer, &|name| ["tree", "work"].contains(&name))?;
        }
        Ok(())
    }
}

/// Tops that are not their sandbox's alone.
fn confused(records: &[Record], problems: &mut Vec<Problem>) {
    let mut tops: BTreeMap<LayerId, &Name> = BTreeMap::new();
    for Record { name, top, .. } in records {
        if let Some(other) = tops.insert(*top, name) {
            problems.push(Problem::SharedTop { name: other.clone(), other: name.clone(), layer: *top });
        }
    }
    for record in records {
        let sealed: HashSet<_> = record.stacks().flatten().collect();
        for layer in sealed {
            if let Some(name) = tops.get(layer) {
                problems.push(Problem::SealedTop { name: (*name).clone(), sealed: record.name.clone(), layer: *layer });
            }
        }
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}
