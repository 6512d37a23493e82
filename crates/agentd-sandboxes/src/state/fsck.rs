//! Reads everything and says what is wrong.

use super::State;
use crate::{
    error::StateError,
    layer,
    layer_id::LayerId,
    name::Name,
    record::{FILE, Record},
};
use agentd_disk::entries;
use std::{
    collections::{BTreeMap, HashSet},
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
    /// Nothing needs a layer, or who made this died. It is no damage: [`State::collect`] removes it.
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
            Self::Garbage(path) => write!(f, "{path:?} is needed by nothing — collect it"),
            Self::Unknown(path) => write!(f, "{path:?} is nothing of agentd's — remove it if it is nothing of yours"),
        }
    }
}

impl State {
    /// Reads everything and says what is not as it should be. All is well when none of it [is damage](Problem::is_damage).
    pub fn fsck(&self) -> Result<Vec<Problem>, StateError> {
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
        records.iter().for_each(|record| self.missing(record, &mut problems));
        confused(&records, &mut problems);
        // What a record needs that cannot be read is not known.
        if all_read {
            let mut needed: HashSet<_> = records.iter().flat_map(Record::needs).collect();
            needed.extend(self.pinned(&lock)?);
            let layers = entries(&self.layers())?.into_iter();
            let garbage = layers.filter(|path| LayerId::of(path).is_some_and(|layer| !needed.contains(&layer)));
            problems.extend(garbage.map(Problem::Garbage));
        }
        // Held until it is listed, and not removed: this only looks.
        for left in agentd_disk::abandoned(&self.staging(), &lock)? {
            problems.push(Problem::Garbage(left.leave()));
        }
        self.unknown(&mut problems)?;
        Ok(problems)
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
        look(&self.root, &|name| ["keeper", "lock", "named", "layers", "staging"].contains(&name))?;
        look(&self.named(), &|name| name.parse::<Name>().is_ok())?;
        look(&self.layers(), &|name| name.parse::<LayerId>().is_ok())?;
        for name in self.names()? {
            look(&self.sandbox(&name), &|name| [FILE, "log"].contains(&name))?;
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
