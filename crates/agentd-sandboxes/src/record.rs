//! What is written down of a named sandbox, and how it is read again.

use crate::{
    error::{Damage, Doing as _, StateError},
    layer_id::LayerId,
    name::Name,
};
use agentd_core::SandboxSpec;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The file of a record, in the directory of its sandbox.
pub(crate) const FILE: &str = "record.json";

/// A named sandbox. It changes by one `rename` of its file, so it is as before a change or as after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// A record of a later version must not be read as this one.
    version: Version,
    /// What it is called, as its directory is.
    pub name: Name,
    /// What it was asked to be.
    pub about: About,
    /// Its layers that do not change any more, the lowest first, over those of its image.
    pub sealed: Vec<LayerId>,
    /// The layer that takes its changes; no other sandbox has it.
    pub top: LayerId,
    /// What was saved of it.
    pub snapshots: BTreeMap<Name, Snapshot>,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// When it was last used, likewise.
    pub used: u64,
    /// What it was forked from: `sandbox`, or `sandbox@snapshot`.
    pub parent: Option<String>,
}

/// What a sandbox is asked to be, and for how long. Nothing here is of this crate's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What its backend makes it of.
    pub spec: SandboxSpec,
    /// The image that it was made from; the layers of that, in the spec, must be kept as long as the sandbox is.
    pub image: Option<String>,
    /// The environment of a command that asks for nothing of its own.
    pub env: Vec<(String, String)>,
    /// The directory that a command starts in.
    pub cwd: PathBuf,
    /// How many seconds it may be unused.
    pub idle_ttl: Option<u64>,
    /// How many seconds after its making it ends.
    pub total_ttl: Option<u64>,
}

/// What a sandbox was at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Its layers then, the lowest first, all of them sealed.
    pub layers: Vec<LayerId>,
    /// When it was made, in seconds since 1970.
    pub made: u64,
}

/// The version of what a record says: 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        if version == 1 { Ok(Self) } else { Err(format!("version {version}, but this agentd knows version 1 only")) }
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

impl Record {
    /// A sandbox that is new.
    pub(crate) fn new(name: &Name, about: About, sealed: Vec<LayerId>, top: LayerId, parent: Option<String>) -> Self {
        let (name, now) = (name.clone(), now());
        Self { version: Version, name, about, sealed, top, snapshots: BTreeMap::new(), made: now, used: now, parent }
    }

    /// The layers of what it is now and of its snapshots: each list that a layer may be in, its top apart.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Vec<LayerId>> {
        self.snapshots.values().map(|snapshot| &snapshot.layers).chain([&self.sealed])
    }

    /// Each list of [`Self::stacks`], to be changed.
    pub(crate) fn stacks_mut(&mut self) -> impl Iterator<Item = &mut Vec<LayerId>> {
        self.snapshots.values_mut().map(|snapshot| &mut snapshot.layers).chain([&mut self.sealed])
    }

    /// Every layer that it needs; some come more than once.
    pub(crate) fn needs(&self) -> impl Iterator<Item = LayerId> {
        self.stacks().flatten().copied().chain([self.top])
    }

    /// The record in `directory`, or what became of it.
    pub(crate) fn read(directory: &Path, name: &Name) -> Result<Result<Self, Damage>, StateError> {
        let Some(bytes) = agentd_disk::read(&directory.join(FILE))? else { return Ok(Err(Damage::Lost)) };
        Ok(match serde_json::from_slice::<Self>(&bytes) {
            Err(source) => Err(Damage::Unreadable(source)),
            Ok(record) if record.name != *name => Err(Damage::Another(record.name)),
            Ok(record) => Ok(record),
        })
    }

    /// Writes the record into `directory`; `draft` is a name of the same file system that nobody else uses now.
    pub(crate) fn write(&self, directory: &Path, draft: &Path) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(self);
        let bytes = bytes.map_err(|source| StateError::Unwritable { name: self.name.clone(), source })?;
        agentd_disk::write(&directory.join(FILE), &bytes, draft)?;
        Ok(agentd_disk::flush_directory(directory)?)
    }
}

/// Seconds since 1970. A clock that is before that is as good as one that stands.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes the directory of a sandbox, with its record in it.
pub(crate) fn make_directory(directory: &Path, record: &Record) -> Result<(), StateError> {
    agentd_disk::make_folder(directory)?;
    agentd_disk::make_folder(&directory.join("log"))?;
    record.write(directory, &directory.join("draft"))
}

/// Whether there is anything at `path`.
pub(crate) fn exists(path: &Path) -> Result<bool, StateError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).doing("look at", path),
    }
}
