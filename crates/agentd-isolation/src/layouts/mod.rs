//! Toolchains and package caches of the caller that a sandbox is shown by default. Only known layouts are shown.
//!
//! Toolchains on the caller's `PATH` become read-only grants. Caches become copy-on-write grants: a build is as fast as outside,
//! and its changes are discarded with the sandbox. The guard of grants checks both, and links that a sandbox may have created are
//! not followed. A directory that contains a file named like a credential file is left out.
//!
//! - `list`: the layouts, from a file.
//! - `secrets`: detects credentials in a directory.

mod list;
mod secrets;

use crate::{
    SYSTEM_DIRECTORIES,
    grants::{Found, Guard, Links, find},
};
use agentd_core::{Access, Grant};
use list::{LIST, Layout};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// The properties of the caller that select the layouts.
pub struct Caller<'a> {
    /// The guard, which knows the home directory.
    pub guard: &'a Guard,
    /// The caller's `PATH`.
    pub path: &'a OsStr,
    /// Returns the value of a variable in the caller's environment.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// The directories to show, and those that were left out.
#[derive(Debug, Default)]
pub struct ShownLayouts {
    /// The grants of the shown directories.
    pub grants: Vec<Grant>,
    /// Variables with which tools find the shown directories, and their values.
    pub variables: Vec<(&'static str, PathBuf)>,
    /// Existing directories that are not shown, and the reason for each.
    pub left_out: Vec<(PathBuf, String)>,
}

/// The layouts to leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut<'a> {
    /// The layouts of these tools, by name. An empty list leaves out none.
    Tools(&'a [String]),
    /// All layouts.
    All,
}

impl LeftOut<'_> {
    fn includes(self, layout: &Layout) -> bool {
        match self {
            Self::Tools(names) => names.iter().any(|name| name == layout.name),
            Self::All => true,
        }
    }
}

/// Returns the names of all tools that have a toolchain in the list.
pub fn toolchain_names() -> Vec<&'static str> {
    names(|layout| !layout.show.is_empty())
}

/// Returns the names of all tools that have a cache in the list.
pub fn cache_names() -> Vec<&'static str> {
    names(|layout| !layout.caches.is_empty())
}

fn names(has: impl Fn(&Layout) -> bool) -> Vec<&'static str> {
    let mut names: Vec<_> = LIST.layouts.iter().filter(|layout| has(layout)).map(|layout| layout.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Returns read-only grants of the toolchains on the caller's `PATH`, each shown at its own path. A toolchain with a directory
/// that must not be shown is left out as a whole.
pub fn toolchains(caller: &Caller<'_>, without: LeftOut<'_>) -> ShownLayouts {
    let mut shown = ShownLayouts::default();
    let entries: Vec<PathBuf> = std::env::split_paths(caller.path).collect();
    for layout in LIST.layouts.iter().filter(|layout| !without.includes(layout)) {
        let on_path = |place: &&str| caller.place(layout, place).is_some_and(|at| entries.iter().any(|e| e.starts_with(&at)));
        if !layout.on_path.iter().any(on_path) {
            continue;
        }
        let places = layout.show.iter().filter_map(|place| caller.place(layout, place));
        match places.filter_map(|place| caller.look_up(layout, &place, Access::ReadOnly)).collect::<Result<Vec<_>, _>>() {
            Ok(found) => {
                shown.variables.extend(layout.set.iter().filter_map(|(name, place)| {
                    let place = caller.place(layout, place)?.canonicalize().ok()?;
                    found.iter().any(|found| found.path.starts_with(&place)).then_some((*name, place))
                }));
                shown.grants.extend(found.into_iter().filter(|found| !is_system(&found.path)).map(grant));
            }
            Err(left_out) => shown.left_out.push(left_out),
        }
    }
    shown.grants.dedup();
    shown
}

/// Returns copy-on-write grants of the caller's caches, each shown below `home` at the path that its tool uses. A cache that
/// overlaps a grant in `granted` is not added, because the caller requested that grant.
pub fn caches(caller: &Caller<'_>, home: &Path, granted: &[Grant], without: LeftOut<'_>) -> ShownLayouts {
    let mut shown = ShownLayouts::default();
    for layout in LIST.layouts.iter().filter(|layout| !without.includes(layout)) {
        for cache in &layout.caches {
            match caller.place(layout, cache).and_then(|place| caller.look_up(layout, &place, Access::CopyOnWrite)) {
                None => {}
                Some(Err(left_out)) => shown.left_out.push(left_out),
                Some(Ok(found)) => {
                    let grant = Grant { target: Some(home.join(cache)), access: Access::CopyOnWrite, ..grant(found) };
                    if grant.path.is_dir() && !granted.iter().any(|other| overlap(&grant, other)) {
                        shown.grants.push(grant);
                    }
                }
            }
        }
    }
    shown
}

impl Caller<'_> {
    /// Returns the path of a place in a layout: below the home directory, unless a variable moves it.
    fn place(&self, layout: &Layout, place: &str) -> Option<PathBuf> {
        let moved = layout.moves(Path::new(place)).find_map(|(variable, rest)| {
            let named = std::env::split_paths(&(self.variable)(variable)?).next().filter(|path| path.is_absolute())?;
            Some(named.join(rest))
        });
        moved.or_else(|| Some(self.guard.home()?.join(place)))
    }

    /// Finds the object at `place`. Returns `None` if there is none, and an error if it must not be granted. An object that every
    /// sandbox may read is returned for [`Access::ReadOnly`] even if the guard refuses it: the caller creates no grant of it.
    fn look_up(&self, layout: &Layout, place: &Path, access: Access) -> Option<Result<Found, (PathBuf, String)>> {
        place.symlink_metadata().ok()?;
        let found = match find(place, self.guard, Links::Refuse) {
            Ok(found) => found,
            Err(error) => return Some(Err((place.to_path_buf(), error.to_string()))),
        };
        let refused = self.guard.refusal(&found.path).or_else(|| not_mappable(&found.path));
        match refused.or_else(|| secrets::contained(&found.path, layout, |secret| self.place(layout, secret))) {
            Some(reason) if access != Access::ReadOnly || !is_system(&found.path) => Some(Err((place.to_path_buf(), reason))),
            _ => Some(Ok(found)),
        }
    }
}

/// Creates a read-only grant of `found`.
fn grant(found: Found) -> Grant {
    Grant { object: Some(found.object), ..Grant::new(found.path, Access::ReadOnly) }
}

/// Returns whether every sandbox shows `path` without a grant.
fn is_system(path: &Path) -> bool {
    SYSTEM_DIRECTORIES.iter().any(|system| path.starts_with(system))
}

/// Returns whether one of two grants lies in the other, on the host or in the sandbox.
fn overlap(one: &Grant, other: &Grant) -> bool {
    let target = |grant: &'_ Grant| grant.target.clone().unwrap_or_else(|| grant.path.clone());
    let meet = |one: &Path, other: &Path| one.starts_with(other) || other.starts_with(one);
    meet(&one.path, &other.path) || meet(&target(one), &target(other))
}

/// Returns the reason why a directory cannot be shown, if there is one. A sandbox that root creates has its own ids and
/// sees files through id-mapped mounts, which overlayfs does not support (`mount_setattr(2)`). In a container, root's toolchains
/// are therefore left out; otherwise every run would be refused.
fn not_mappable(path: &Path) -> Option<String> {
    const OVERLAYFS: i64 = 0x794c_7630;
    let is_overlay = || rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == OVERLAYFS);
    let refused = rustix::process::geteuid().is_root() && is_overlay();
    refused.then(|| {
        "the path lies on overlayfs, which cannot be id-mapped for a sandbox of root — move it to another file system".to_owned()
    })
}

#[cfg(test)]
mod tests;
