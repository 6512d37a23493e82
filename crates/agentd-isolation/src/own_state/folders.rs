//! The folders of agentd, and the place of its proofs and of the daemon's key.

use super::{passwd, private};
use crate::data;
use agentd_kernel::text;
use agentd_log::LogFailure as _;
use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The name of agentd's folder in each folder of the user.
const NAME: &str = "agentd";

/// The folder of proofs and key, below the home directory of a user without a runtime directory. It lies in the data folder,
/// so that `~/.cache` contains nothing of agentd and can be granted.
const PROOFS: [&str; 4] = [".local", "share", NAME, "proofs"];

const GRANT_ANOTHER: &str = "grant a directory that does not overlap it";

/// The grants that a folder forbids while it does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhileMissing {
    /// The folder forbids no grant: agentd trusts it only if it existed before.
    Allow,
    /// The folder forbids writable grants that would contain it: a payload could create what agentd trusts.
    RefuseWritable,
    /// The folder forbids all grants that would contain it: a sandbox that is live when agentd creates the folder would see keys
    /// and sockets.
    RefuseAll,
}

/// A folder that no grant may contain or lie in.
pub(super) struct Folder {
    pub path: PathBuf,
    pub while_missing: WhileMissing,
    /// The purpose of the folder, for the message.
    pub holds: &'static str,
    /// The advice to the user, for the message.
    pub remedy: &'static str,
}

impl Folder {
    fn data(path: PathBuf) -> Self {
        let holds = "where agentd stores images, sandboxes and its daemon's socket";
        Self { path, while_missing: WhileMissing::RefuseAll, holds, remedy: GRANT_ANOTHER }
    }

    /// Creates the entry of the folder that `AGENTD_DATA_DIR` names. The default folders stay refused if the variable changes.
    fn named_data(path: PathBuf) -> Self {
        Self {
            remedy: "grant a directory that does not overlap it, or set AGENTD_DATA_DIR to another directory",
            ..Self::data(path)
        }
    }

    fn proofs(path: PathBuf) -> Self {
        let holds = "where agentd stores the results of its probes and the daemon's key";
        Self { path, while_missing: WhileMissing::RefuseAll, holds, remedy: GRANT_ANOTHER }
    }

    fn configuration(path: PathBuf) -> Self {
        let holds = "which agentd reserves for its configuration, although it reads none yet";
        Self { path, while_missing: WhileMissing::RefuseWritable, holds, remedy: GRANT_ANOTHER }
    }

    /// Creates an entry for a folder of a backend, which contains programs that the backend executes or state that it trusts.
    pub fn of_backend(path: &Path) -> Self {
        let holds = "which holds files that the backend executes or trusts";
        Self { path: path.to_path_buf(), while_missing: WhileMissing::RefuseWritable, holds, remedy: GRANT_ANOTHER }
    }
}

/// Returns all folders that this user's runs of agentd trust, whatever environment the next run has. For root, the folders of
/// other users are included.
pub(super) fn all() -> Vec<Folder> {
    let user = rustix::process::geteuid().as_raw();
    let named = data::named_directory().map(Folder::named_data);
    let mut folders: Vec<Folder> = named.or_else(|| data::data_directory().map(Folder::data)).into_iter().collect();
    let uids = uids();
    folders.extend(uids.iter().map(|uid| Folder::proofs(runtime_base(*uid).join(NAME))));
    folders.extend(runtime_folders());
    folders.push(Folder::configuration(Path::new("/etc").join(NAME)));
    if user == 0 {
        folders.push(Folder::data("/var/lib/agentd".into()));
    }
    let homes = passwd::homes();
    let named = named_home();
    let own = uids.into_iter().filter_map(own_home).filter(|own| named.as_ref() != Some(own));
    for home in named.iter().cloned().chain(own) {
        folders.extend(of_home(&home));
    }
    if user == 0 {
        // A sandbox created by root has the rights of the owner of a granted directory, so the folders of other users are refused
        // like root's own.
        // Many users share a home that does not exist.
        let others: BTreeSet<PathBuf> = homes.into_iter().filter(|(uid, _)| *uid != 0).map(|(_, home)| home).collect();
        for home in others {
            let [data, proofs, configuration] = of_home(&home);
            // The proofs lie in the data folder.
            let inside = if data.path.exists() { vec![data, proofs] } else { Vec::new() };
            let existing = inside.into_iter().chain([configuration]).filter(|folder| folder.path.exists());
            folders.extend(existing.map(|folder| Folder { while_missing: WhileMissing::Allow, ..folder }));
        }
    }
    folders
}

/// Returns agentd's folder in the runtime directory of each user. Root can grant those of all users. In nested user namespaces,
/// the runtime directory of the caller is that of a uid which this process does not know.
fn runtime_folders() -> impl Iterator<Item = Folder> {
    let users = std::fs::read_dir("/run/user").into_iter().flatten().flatten();
    users.map(|user| Folder::proofs(user.path().join(NAME)))
}

fn of_home(home: &Path) -> [Folder; 3] {
    [
        Folder::data(home.join(".local/share").join(NAME)),
        Folder::proofs(PROOFS.iter().fold(home.to_path_buf(), |path, name| path.join(name))),
        Folder::configuration(home.join(".config").join(NAME)),
    ]
}

/// Returns this user's home directory: that of `/etc/passwd` if it exists, otherwise that of `HOME`.
pub(crate) fn home() -> Option<PathBuf> {
    let own = own_home(rustix::process::geteuid().as_raw()).filter(|home| home.is_dir());
    own.or_else(named_home)
}

fn named_home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute() && home != Path::new("/"))
}

/// Returns the uid of this process, and the uid to which the kernel maps it in the parent user namespace if the two uids differ.
/// `unshare --map-root-user` makes a user root in a new user namespace, and leaves the user's folders where they are.
fn uids() -> Vec<u32> {
    let own = rustix::process::geteuid().as_raw();
    // If the map cannot be read, the folders of the mapped uid are not found.
    let map = text::read("/proc/self/uid_map").unwrap_or_default();
    std::iter::once(own).chain(mapped(own, &map).filter(|outer| *outer != own)).collect()
}

/// Returns the uid to which `map` maps `uid` (`user_namespaces(7)`).
fn mapped(uid: u32, map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || fields.next()?.ok();
        let (inside, outside, count) = (next()?, next()?, next()?);
        let offset = uid.checked_sub(inside).filter(|offset| *offset < count)?;
        outside.checked_add(offset)
    })
}

fn own_home(user: u32) -> Option<PathBuf> {
    passwd::homes().into_iter().find_map(|(uid, home)| (uid == user).then_some(home))
}

/// Returns the runtime directory of `user` (`file-hierarchy(7)`).
fn runtime_base(user: u32) -> PathBuf {
    if user == 0 { PathBuf::from("/run") } else { PathBuf::from(format!("/run/user/{user}")) }
}

/// Opens the folder of proofs and key, and creates it if necessary. Returns `None` if no place for it can be opened; nothing is
/// then stored.
///
/// If the user has a runtime directory or a home in `/etc/passwd`, no environment variable changes the place. The folder that
/// `XDG_CACHE_HOME` names may be in the workspace, where a payload could write to it.
pub fn trusted_folder() -> Option<OwnedFd> {
    let mut places = trusted_places().into_iter();
    places.find_map(|(base, below)| private::open(&base, below).or_debug("open the folder of proofs in", &base))
}

/// Reads the secret `name` from the folder of proofs and key. If this folder can be in several places, the first place that has
/// the file is used. Creates nothing. Returns the path and the content; `None` if no place has the file, or this process may not
/// read it.
pub fn read_trusted_secret(name: &str) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
    trusted_places().into_iter().find_map(|(base, below)| {
        let folder = private::find(&base, below).ok()?;
        Some((path_below(base, below).join(name), private::read_secret(folder.as_fd(), name).ok()?))
    })
}

/// Returns the paths at which [`read_trusted_secret`] looks for `name`, for messages.
pub fn trusted_paths(name: &str) -> Vec<PathBuf> {
    trusted_places().into_iter().map(|(base, below)| path_below(base, below).join(name)).collect()
}

fn path_below(base: PathBuf, below: &[&str]) -> PathBuf {
    below.iter().fold(base, |path, name| path.join(name))
}

/// Returns the places for the folder of proofs and key, best first: existing directories, and the components below them.
fn trusted_places() -> Vec<(PathBuf, &'static [&'static str])> {
    let of = |uid: u32| {
        // For root, the home is that of `/etc/passwd`, even if HOME names another directory.
        let home = own_home(uid).filter(|home| home.is_dir()).or_else(|| if uid == 0 { None } else { named_home() });
        let runtime: (PathBuf, &[&str]) = (runtime_base(uid), &[NAME]);
        std::iter::once(runtime).chain(home.map(|home| (home, &PROOFS[..])))
    };
    uids().into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_is_mapped_by_the_line_that_contains_it() {
        let container = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(
            [0, 1, 1000, 65536, 65537].map(|uid| mapped(uid, container)),
            [Some(1000), Some(100_000), Some(100_999), Some(165_535), None]
        );
        assert_eq!(mapped(1000, "0 0 4294967295"), Some(1000));
        for damaged in ["", "0", "0 1000", "0 x 1", "0 4294967295 2\n1 1"] {
            assert_eq!(mapped(1, damaged), None, "{damaged}");
        }
    }
}
