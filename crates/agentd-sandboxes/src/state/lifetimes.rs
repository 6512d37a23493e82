//! A cache of the lifetimes of sandboxes, which avoids reading all records for each query.

use super::directory::SandboxStore;
use crate::{
    error::StoreError,
    name::Name,
    record::{FILE, Record},
};
use agentd_log::LogFailure as _;
use std::{collections::HashMap, fs, os::unix::fs::MetadataExt};

/// The fields of a record that determine the lifetime of its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Creation time, in seconds since 1970.
    pub created: u64,
    /// Time of the last use, in seconds since 1970.
    pub used: u64,
    /// Maximum time without use, in seconds.
    pub idle_ttl: Option<u64>,
    /// Maximum lifetime after creation, in seconds.
    pub total_ttl: Option<u64>,
}

impl From<&Record> for Lifetime {
    fn from(record: &Record) -> Self {
        let Record { created, used, about, .. } = record;
        Self { created: *created, used: *used, idle_ttl: about.idle_ttl, total_ttl: about.total_ttl }
    }
}

/// The lifetimes of all sandboxes, each as of the last change of its record.
#[derive(Debug, Default)]
pub struct Lifetimes(HashMap<Name, (Stamp, Option<Lifetime>)>);

/// Inode, size and times of a record's file, which identify its version: every change of a record replaces the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, u64, [i64; 4]);

impl Lifetimes {
    /// Reads the records that changed since the last call, and removes the entries of deleted sandboxes. A damaged record has no
    /// lifetime.
    ///
    /// # Errors
    /// [`StoreError`] if the names of the sandboxes cannot be listed.
    pub fn refresh(&mut self, state: &SandboxStore) -> Result<(), StoreError> {
        let mut known = HashMap::new();
        for name in state.names()? {
            let Some(stamp) = stamp(state, &name) else { continue };
            let same = self.0.get(&name).filter(|(read, _)| *read == stamp).copied();
            let entry = match same {
                Some(entry) => entry,
                // A record that cannot be read is logged once, and read again after it has changed.
                None => (stamp, state.record(&name).or_warn("read the lifetime of sandbox", &name).as_ref().map(Lifetime::from)),
            };
            known.insert(name, entry);
        }
        self.0 = known;
        Ok(())
    }

    /// Returns the lifetimes as of the last [`Lifetimes::refresh`].
    pub fn all(&self) -> Vec<(Name, Lifetime)> {
        self.0.iter().filter_map(|(name, (_, lifetime))| Some((name.clone(), (*lifetime)?))).collect()
    }
}

fn stamp(state: &SandboxStore, name: &Name) -> Option<Stamp> {
    let meta = fs::symlink_metadata(state.sandbox(name).join(FILE)).ok()?;
    Some(Stamp(meta.ino(), meta.size(), [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::SandboxSettings;

    #[test]
    fn damaged_record_is_read_once_and_has_no_lifetime() {
        let place = tempfile::tempdir().unwrap();
        let state = SandboxStore::open(&place.path().join("state")).unwrap();
        let name: Name = "a".parse().unwrap();
        state.create(&name, SandboxSettings { idle_ttl: Some(60), ..SandboxSettings::default() }).unwrap();
        fs::write(state.sandbox(&name).join(FILE), "{").unwrap();
        let mut lifetimes = Lifetimes::default();
        for _ in 0..2 {
            lifetimes.refresh(&state).unwrap();
            assert_eq!(lifetimes.all(), []);
            assert!(lifetimes.0[&name].1.is_none());
        }
        state.remove(&name).unwrap();
        lifetimes.refresh(&state).unwrap();
        assert!(lifetimes.0.is_empty());
    }

    #[test]
    fn record_is_read_again_only_after_a_change() {
        let place = tempfile::tempdir().unwrap();
        let state = SandboxStore::open(&place.path().join("state")).unwrap();
        let names: [Name; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        for name in &names {
            state.create(name, SandboxSettings { idle_ttl: Some(60), ..SandboxSettings::default() }).unwrap();
        }
        let mut lifetimes = Lifetimes::default();
        lifetimes.refresh(&state).unwrap();
        assert!(lifetimes.all().iter().all(|(_, lifetime)| lifetime.idle_ttl == Some(60)));
        // A record that is not read again keeps this value, which no record contains.
        let stale = |lifetimes: &mut Lifetimes| {
            lifetimes.0.values_mut().for_each(|(_, lifetime)| lifetime.as_mut().unwrap().idle_ttl = Some(1))
        };
        stale(&mut lifetimes);
        state.touch(&names[0]).unwrap();
        lifetimes.refresh(&state).unwrap();
        let ttl =
            |lifetimes: &Lifetimes, name: &Name| lifetimes.0.get(name).and_then(|(_, lifetime)| Some((*lifetime)?.idle_ttl));
        assert_eq!(ttl(&lifetimes, &names[0]), Some(Some(60)));
        assert_eq!(ttl(&lifetimes, &names[1]), Some(Some(1)));
        state.remove(&names[0]).unwrap();
        fs::write(state.sandbox(&names[1]).join(FILE), "{").unwrap();
        lifetimes.refresh(&state).unwrap();
        assert_eq!(lifetimes.all(), []);
    }
}
