//! The records of named sandboxes, and their reading and writing.

use crate::{
    error::{Damage, StoreError},
    layer_id::LayerId,
    name::Name,
};
use agentd_core::SandboxSpec;
use agentd_disk::FileContext as _;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The name of the record's file in the directory of its sandbox.
pub(crate) const FILE: &str = "record.json";

/// The record of a named sandbox. Its file is replaced by one `rename`, so each change is applied completely or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Prevents a record of a later version from being read in this format.
    version: Version,
    /// The name of the sandbox and of its directory.
    pub name: Name,
    /// The configuration of the sandbox.
    pub about: SandboxSettings,
    /// The committed layers of the sandbox, lowest first, above those of its image.
    #[serde(rename = "sealed")]
    pub lower: Vec<LayerId>,
    /// The upper layer, which receives the changes. No other sandbox uses it.
    #[serde(rename = "top")]
    pub upper: LayerId,
    /// The snapshots of the sandbox.
    pub snapshots: BTreeMap<Name, Snapshot>,
    /// Creation time, in seconds since 1970.
    #[serde(rename = "made")]
    pub created: u64,
    /// Time of the last use, in seconds since 1970.
    pub used: u64,
    /// The origin of a fork: `sandbox`, or `sandbox@snapshot`.
    pub parent: Option<String>,
}

/// The requested configuration and lifetime of a sandbox. This crate stores both and enforces only the disk limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSettings {
    /// The specification for the backend.
    pub spec: SandboxSpec,
    /// The image of the sandbox. The image layers in `spec` must be kept as long as the sandbox exists.
    pub image: Option<String>,
    /// The environment of a command that specifies none.
    pub env: Vec<(String, String)>,
    /// The working directory of a command.
    pub cwd: PathBuf,
    /// Maximum time without use, in seconds.
    pub idle_ttl: Option<u64>,
    /// Maximum lifetime after creation, in seconds.
    pub total_ttl: Option<u64>,
    /// The principal whose intent created the sandbox; `None` for a sandbox of the command line, which belongs to the user who
    /// runs agentd.
    #[serde(default)]
    pub owner: Option<String>,
}

/// A saved state of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The layers of the saved state, lowest first, all of them committed.
    pub layers: Vec<LayerId>,
    /// Creation time, in seconds since 1970.
    #[serde(rename = "made")]
    pub created: u64,
}

/// The version of the record format: 4. Version 1 had no identities of grants, and a sandbox with grants does not start without
/// them. Versions 1 and 2 had no granted hosts. Versions 1 to 3 had no owners. Otherwise all versions have the same meaning. The
/// first change of a record upgrades the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            1..=4 => Ok(Self),
            other => Err(format!("record version {other}; this agentd supports only versions 1 to 4")),
        }
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        4
    }
}

impl Record {
    /// Creates the record of a new sandbox.
    pub(crate) fn new(name: &Name, about: SandboxSettings, lower: Vec<LayerId>, upper: LayerId, parent: Option<String>) -> Self {
        let (name, now) = (name.clone(), now());
        Self { version: Version, name, about, lower, upper, snapshots: BTreeMap::new(), created: now, used: now, parent }
    }

    /// Returns the layer lists of all snapshots and of the current state, without the upper layer.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &Vec<LayerId>> {
        self.snapshots.values().map(|snapshot| &snapshot.layers).chain([&self.lower])
    }

    /// Returns the lists of [`Self::stacks`] for changing.
    pub(crate) fn stacks_mut(&mut self) -> impl Iterator<Item = &mut Vec<LayerId>> {
        self.snapshots.values_mut().map(|snapshot| &mut snapshot.layers).chain([&mut self.lower])
    }

    /// Returns every layer that the sandbox needs, possibly with repetitions.
    pub(crate) fn needs(&self) -> impl Iterator<Item = LayerId> {
        self.stacks().flatten().copied().chain([self.upper])
    }

    /// Reads the record in `directory` and checks that it belongs to `name`.
    pub(crate) fn read(directory: &Path, name: &Name) -> Result<Result<Self, Damage>, StoreError> {
        let Some(bytes) = agentd_disk::read(&directory.join(FILE))? else { return Ok(Err(Damage::Lost)) };
        Ok(match serde_json::from_slice::<Self>(&bytes) {
            Err(source) => Err(Damage::Unreadable(source)),
            Ok(record) if record.name != *name => Err(Damage::Another(record.name)),
            Ok(record) => Ok(record),
        })
    }

    /// Writes the record into `directory`. `draft` is on the same file system, and only this writer uses that name during the
    /// call.
    pub(crate) fn write(&self, directory: &Path, draft: &Path) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(self);
        let bytes = bytes.map_err(|source| StoreError::Unwritable { name: self.name.clone(), source })?;
        agentd_disk::write(&directory.join(FILE), &bytes, draft)?;
        Ok(agentd_disk::flush_directory(directory)?)
    }
}

/// Returns the seconds since 1970; 0 if the clock is set to an earlier time.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Creates the directory of a sandbox, with its record.
pub(crate) fn make_directory(directory: &Path, record: &Record) -> Result<(), StoreError> {
    agentd_disk::make_folder(directory)?;
    agentd_disk::make_folder(&directory.join("log"))?;
    record.write(directory, &directory.join("draft"))
}

/// Returns true if `path` exists, without following a symbolic link.
pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).during("stat", path)?,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn record_keeps_field_names_of_its_format() {
        let name: Name = "dev".parse().unwrap();
        let mut record = Record::new(&name, SandboxSettings::default(), Vec::new(), LayerId::random().unwrap(), None);
        record.snapshots.insert(name, Snapshot { layers: Vec::new(), created: 1 });
        let json = serde_json::to_value(&record).unwrap();
        let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let expected = ["about", "made", "name", "parent", "sealed", "snapshots", "top", "used", "version"];
        assert_eq!(names(&json), expected.map(str::to_owned).into());
        assert_eq!(names(&json["snapshots"]["dev"]), ["layers", "made"].map(str::to_owned).into());
    }
}
