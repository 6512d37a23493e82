//! Determines the protected paths of a grant: those of the list, the places where git finds its hooks and settings, and the
//! targets of symbolic links.

use super::{
    case,
    gaps::{Cause, Gaps},
    git::{self, Named, Repository},
    interrupt::Interrupt,
    links::Links,
    list::{self, LIST},
    read,
    search::{Limits, search},
    tree::SearchedTree,
};
use agentd_core::{Access, Grant};
use agentd_kernel::mount::GrantPlan;
use rustix::fs::{CWD, Dir, FileType, OFlags, lstat};
use std::{
    collections::{BTreeSet, HashSet},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// The maximum number of links in a directory of hooks that are followed.
const MAX_HOOKS: usize = 256;

/// The maximum number of names of a directory that are kept in memory.
const MAX_NAMES: usize = 1 << 16;

/// The parts of a grant that matter for protection.
#[derive(Debug, Clone)]
pub(super) struct GrantedTree {
    pub path: PathBuf,
    pub writable: bool,
    pub protect: Vec<PathBuf>,
    pub unprotected: Vec<PathBuf>,
}

impl GrantedTree {
    pub(super) fn from_grant(grant: &Grant) -> Self {
        let writable = grant.access == Access::ReadWrite;
        let (protect, unprotected) = (grant.protect.clone(), grant.unprotected.clone());
        Self { path: grant.path.clone(), writable, protect, unprotected }
    }

    /// Returns the absolute protected paths that may exist, including those that the caller released. The paths that git uses are
    /// looked up in each call, because the host may have changed them.
    pub(super) fn paths(&self, interrupt: &Interrupt) -> Named {
        let entries = entries_of(&self.path);
        let may_exist = |name: &&PathBuf| match (&entries, name.iter().next()) {
            (Ok(Some(entries)), Some(first)) => entries.may_contain(first),
            _ => true,
        };
        let listed = self.protect.iter().chain(&self.unprotected);
        let mut paths: Vec<PathBuf> = listed.filter(may_exist).map(|name| self.path.join(name)).collect();
        let mut gaps = Gaps::default();
        if self.protects() {
            match &entries {
                Ok(Some(entries)) => paths.extend(entries.with_suffix.iter().map(|name| self.path.join(name))),
                Ok(None) => gaps.add(&self.path, Cause::TooManyNames),
                Err(errno) if read::is_absent(*errno) => {}
                Err(_) => gaps.add(&self.path, Cause::Unreadable),
            }
        }
        if self.protects_git() {
            let of_git = of_git(&self.path, interrupt);
            paths.extend(of_git.paths);
            gaps.merge(of_git.gaps);
        }
        paths.sort();
        paths.dedup();
        paths.retain(|path| !(git::is_git_parent(path) && path.parent().is_some_and(git::is_git_directory)));
        Named { paths, gaps }
    }

    /// Returns whether the caller released the path, or a directory that contains it.
    fn is_released(&self, path: &Path) -> bool {
        path.strip_prefix(&self.path).is_ok_and(|name| self.unprotected.iter().any(|released| name.starts_with(released)))
    }

    /// Returns whether the grant has protected paths.
    pub(super) fn protects(&self) -> bool {
        self.writable && !self.protect.is_empty()
    }

    /// Returns whether git's paths are protected, which are looked up in addition to the listed names.
    fn protects_git(&self) -> bool {
        // Most grants have a name in `.git`, and comparing all names with git's is slow.
        self.protect.iter().any(|name| name.starts_with(".git"))
            || self.protect.iter().any(|name| LIST.git.iter().any(|own| name == Path::new(own)))
    }
}

/// Returns the names below `grant` that stay read-only if they exist.
///
/// # Errors
/// Returns the reason if the whole grant would have to be read-only.
pub fn names(grant: &Path) -> Result<Vec<PathBuf>, String> {
    let mut names: Vec<PathBuf> = LIST.workspace.iter().map(PathBuf::from).collect();
    for place in of_git(grant, &Interrupt::default()).paths {
        if grant.starts_with(&place) {
            return Err(format!("git executes or loads files in {} — grant the directory with --ro", place.display()));
        }
        names.extend(place.strip_prefix(grant).map(Path::to_path_buf));
    }
    if let Ok(Some(entries)) = entries_of(grant) {
        names.extend(entries.with_suffix.into_iter().map(PathBuf::from));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Returns the worktree and the git directory of the repository that contains `path`, if none of `grants` shows the git
/// directory.
pub fn repository_outside(path: &Path, grants: &[Grant]) -> Option<(PathBuf, PathBuf)> {
    let mut links = Links::new(&Interrupt::default());
    let repository = path.ancestors().find_map(|above| Repository::open(above, &mut links))?;
    let shown = grants.iter().any(|grant| repository.common.starts_with(&grant.path));
    (!shown && git::is_git_directory(&repository.common)).then_some((repository.worktree, repository.common))
}

/// Returns the absolute paths in or around `grant` that git executes or loads. They need not exist or lie in the grant.
fn of_git(grant: &Path, interrupt: &Interrupt) -> Named {
    let dot_git = grant.join(".git");
    let (mut found, mut links) = (Named::default(), Links::new(interrupt));
    match dot_git.symlink_metadata() {
        // The `.git` file of a worktree or submodule names its git directory.
        Ok(meta) if !meta.is_dir() => found.paths.push(dot_git.clone()),
        _ => found.paths.extend(git::names(&dot_git)),
    }
    for above in grant.ancestors() {
        if git::is_git_directory(above) {
            found.paths.extend(git::names(above));
            found.add(git::named_by_bare(above, interrupt));
        }
        if let Some(repository) = Repository::open(above, &mut links) {
            found.add(repository.named(interrupt));
            for own in [&repository.own, &repository.common] {
                found.paths.extend(git::names(own));
            }
        }
    }
    found.gaps.merge(links.gaps);
    found
}

/// Sets the protected paths of resolved grants to those that exist now. Adds git directories of submodules and worktrees,
/// directories of hooks, and the targets of links. Called at every start of a sandbox.
pub(crate) fn complete(grants: &mut [GrantPlan]) {
    let places: Vec<GrantedTree> = grants
        .iter()
        .map(|grant| GrantedTree {
            path: grant.path.clone(),
            writable: grant.access == Access::ReadWrite,
            protect: grant.protect.clone(),
            unprotected: grant.unprotected.clone(),
        })
        .collect();
    // A comparison plans the same paths, and names those that could not be examined.
    let paths = read_only(&places, &Interrupt::default()).paths;
    for grant in grants.iter_mut().filter(|grant| grant.access == Access::ReadWrite) {
        let below = paths.iter().filter_map(|path| path.strip_prefix(&grant.path).ok());
        grant.protect = below.filter(|name| !name.as_os_str().is_empty()).map(Path::to_path_buf).collect();
    }
}

/// The paths that are read-only in a sandbox that starts now.
#[derive(Debug, Default)]
pub(super) struct ReadOnlyPlan {
    /// Absolute and sorted.
    pub paths: Vec<PathBuf>,
    /// The links that lead to some of these paths. If one is replaced, it leads to a path that a running sandbox does not
    /// protect.
    pub links: Vec<PathBuf>,
    /// The paths that could not be examined, and that are therefore writable in the sandbox.
    pub gaps: Gaps,
}

/// Plans the paths that are read-only in a sandbox that starts now.
pub(super) fn read_only(places: &[GrantedTree], interrupt: &Interrupt) -> ReadOnlyPlan {
    let mut plan = ReadOnlyPlan::default();
    for place in places.iter().filter(|place| place.protects()) {
        let own = place.paths(interrupt);
        plan.gaps.merge(own.gaps);
        plan.paths.extend(own.paths.into_iter().filter(|path| exists(path, &mut plan.gaps)));
        plan.paths.extend(nested(place, interrupt));
    }
    let is_released = |path: &Path| places.iter().any(|place| place.is_released(path));
    plan.paths.retain(|path| !is_released(path));
    linked(places, &mut plan, interrupt);
    plan.paths.retain(|path| !is_released(path));
    plan.paths.sort();
    plan.paths.dedup();
    plan
}

/// Returns whether an object is at a path. An error that may hide one is added to `gaps`.
fn exists(path: &Path, gaps: &mut Gaps) -> bool {
    match lstat(path) {
        Ok(_) => true,
        Err(errno) => {
            if !read::is_absent(errno) {
                gaps.add(path.parent().unwrap_or(path), Cause::Unreadable);
            }
            false
        }
    }
}

/// Returns the protected names that exist in the git directories of submodules and linked worktrees. A parent of such directories
/// with more subdirectories than are searched is protected as a whole: a payload may have created them to hide a git directory.
fn nested(place: &GrantedTree, interrupt: &Interrupt) -> Vec<PathBuf> {
    let parents: Vec<PathBuf> = if place.protects_git() {
        let own = [place.path.clone(), place.path.join(".git")];
        let directories = own.into_iter().filter(|path| git::is_git_directory(path));
        directories.flat_map(|path| git::names(&path).filter(|name| git::is_git_parent(name)).collect::<Vec<_>>()).collect()
    } else {
        Vec::new()
    };
    let mut paths = Vec::new();
    for parent in parents {
        let found = search(&parent, Limits::GIT_PARENT, &[], &SearchedTree::default(), interrupt);
        for directory in &found.directories {
            let names = git::names(directory).filter(|path| !git::is_git_parent(path) && path.symlink_metadata().is_ok());
            paths.extend(names);
        }
        if !found.gaps.is_empty() {
            paths.push(parent);
        }
    }
    paths
}

/// Returns the paths in writable grants that the settings of the git directories in the grants name: directories of hooks,
/// included files, programs. These paths are compared but not read-only, because a payload may have created the repository.
pub(super) fn named_by_nested(
    places: &[GrantedTree],
    directories: &BTreeSet<PathBuf>,
    interrupt: &Interrupt,
    links: &mut Links,
) -> Named {
    let is_dot_git = |directory: &Path| directory.file_name().is_some_and(|name| *case::key(name.as_bytes()) == *b".git");
    let mut with_worktrees = Vec::new();
    for directory in directories {
        let worktree = directory.parent().filter(|_| is_dot_git(directory)).unwrap_or(directory);
        let common = Some(git::common_directory(directory, links)).filter(|common| !directories.contains(common));
        with_worktrees.extend(common.into_iter().chain([directory.clone()]).map(|directory| (directory, worktree)));
    }
    let with_worktrees = with_worktrees.iter().map(|(directory, worktree)| (directory.as_path(), *worktree));
    let mut found = git::named_by_all(with_worktrees, interrupt);
    let in_a_grant = |path: &PathBuf| places.iter().any(|place| place.protects() && path.starts_with(&place.path));
    found.paths.retain(in_a_grant);
    found
}

/// Adds the targets, in writable grants, of symbolic links at planned paths and in planned directories of hooks, and these links.
fn linked(places: &[GrantedTree], plan: &mut ReadOnlyPlan, interrupt: &Interrupt) {
    let (mut found, mut links) = (Vec::new(), Links::new(interrupt));
    for path in &plan.paths {
        let resolved = links.follow(path);
        plan.links.extend(resolved.links);
        let Some(real) = resolved.target else { continue };
        if real != *path || path.is_dir() {
            for link in links_in(&real, &mut plan.gaps) {
                let resolved = links.follow(&link);
                plan.links.extend(resolved.links);
                found.extend(resolved.target);
            }
        }
        if real != *path {
            found.push(real);
        }
    }
    found.retain(|path| may_be_written(places, path));
    plan.paths.extend(found);
    plan.gaps.merge(links.gaps);
}

/// Returns whether a path lies in a writable grant, and is not the grant itself.
pub(super) fn may_be_written(places: &[GrantedTree], path: &Path) -> bool {
    places.iter().any(|place| place.writable && path != place.path && path.starts_with(&place.path))
}

/// The names in a directory.
#[derive(Default)]
struct Entries {
    keys: HashSet<Vec<u8>>,
    /// The names with a listed suffix.
    with_suffix: Vec<OsString>,
}

impl Entries {
    /// Returns whether the directory may contain `name`, even on a file system that ignores case.
    fn may_contain(&self, name: &OsStr) -> bool {
        self.keys.contains(&*case::key(name.as_bytes()))
    }
}

/// Returns the names in a directory; `None` if there are more than [`MAX_NAMES`]. One listing is faster than about a hundred
/// lookups.
fn entries_of(directory: &Path) -> rustix::io::Result<Option<Entries>> {
    let opened = read::open(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let (mut entries, mut count) = (Entries::default(), 0);
    for entry in Dir::new(opened)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        entries.keys.insert(case::key(name).into_owned());
        if list::suffix(name).is_some() {
            entries.with_suffix.push(OsStr::from_bytes(name).to_os_string());
        }
        count += 1;
        if count > MAX_NAMES {
            return Ok(None);
        }
    }
    Ok(Some(entries))
}

/// Returns the symbolic links directly in a directory, at most [`MAX_HOOKS`]. Adds the directory to `gaps` if it has more, or
/// cannot be read.
fn links_in(directory: &Path, gaps: &mut Gaps) -> Vec<PathBuf> {
    let mut links = Vec::new();
    match add_links(directory, &mut links) {
        Ok(true) => {}
        Ok(false) => gaps.add(directory, Cause::TooManyLinks),
        Err(errno) if read::is_absent(errno) => {}
        Err(_) => gaps.add(directory, Cause::Unreadable),
    }
    links
}

/// Adds the symbolic links directly in a directory. Returns false if there are more than [`MAX_HOOKS`].
fn add_links(directory: &Path, links: &mut Vec<PathBuf>) -> rustix::io::Result<bool> {
    let opened = read::open(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::new(opened)? {
        let entry = entry?;
        if matches!(entry.file_type(), FileType::Symlink) {
            if links.len() == MAX_HOOKS {
                return Ok(false);
            }
            links.push(directory.join(OsStr::from_bytes(entry.file_name().to_bytes())));
        }
    }
    Ok(true)
}

/// Returns the read-only grants inside writable ones. A rename on the host over the mount point detaches the read-only mount.
pub(super) fn read_only_inside(places: &[GrantedTree]) -> Vec<PathBuf> {
    let inside = |place: &&GrantedTree| {
        places.iter().any(|outer| outer.writable && place.path != outer.path && place.path.starts_with(&outer.path))
    };
    places.iter().filter(|place| !place.writable).filter(inside).map(|place| place.path.clone()).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
