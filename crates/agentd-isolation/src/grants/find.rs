//! Resolves a path to the object that it leads to, once and through descriptors.

use super::Guard;
use agentd_core::{IsolationError, ObjectId};
use agentd_kernel::object;
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsString,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

/// The maximum number of links that the kernel follows (`path_resolution(7)`).
pub(super) const MAX_LINKS: usize = 40;

/// The treatment of a symbolic link in a directory that a sandbox may have been allowed to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The path is refused: a payload may have created the link.
    Refuse,
    /// The link is followed.
    Follow,
}

/// The object that a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The object's path without symbolic links.
    pub path: PathBuf,
    /// The object's identity.
    pub object: ObjectId,
    /// User and group that own the object.
    pub owner: (u32, u32),
    /// Whether the path contained a symbolic link.
    pub linked: bool,
}

/// Finds the object that `path` leads to.
///
/// # Errors
/// [`IsolationError::Invalid`] for a path that leads nowhere, that contains a refused link, or that changes during the call.
pub fn find(path: &Path, guard: &Guard, links: Links) -> Result<Found, IsolationError> {
    let refuse = |reason: String| IsolationError::Invalid { what: format!("path {}", path.display()), reason };
    let failed = |errno: Errno| refuse(not_opened(errno));
    if !path.is_absolute() {
        return Err(refuse("not an absolute path — use an absolute path".to_owned()));
    }
    let (opened, linked) = match object::open(path) {
        Ok(opened) => (opened, false),
        Err(Errno::LOOP) => (walk(path, guard, links).map_err(|stop| stop.into_isolation(path))?, true),
        Err(errno) => return Err(failed(errno)),
    };
    let found = || {
        let stat = rustix::fs::fstat(&opened)?;
        let real = object::path(opened.as_fd())?;
        Ok(Found { path: real, object: object::id(opened.as_fd())?, owner: (stat.st_uid, stat.st_gid), linked })
    };
    let found = found().map_err(failed)?;
    // The guard checks the path of the object, so the path must still lead to that object.
    object::reopen(&found.path, &found.object).map_err(|error| refuse(error.to_string()))?;
    Ok(found)
}

/// The reason why a walk stopped.
enum Stop {
    Failed(Errno),
    /// Stopped at the link with the first path, whose target is the second.
    Untrusted(PathBuf, PathBuf),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl Stop {
    fn into_isolation(self, path: &Path) -> IsolationError {
        let reason = match self {
            Self::Failed(errno) => not_opened(errno),
            Self::Untrusted(link, target) => format!(
                "{} is a symbolic link to {}, in a directory that a sandbox may have changed — name the target by its own path, \
                 or add --follow-links",
                link.display(),
                target.display()
            ),
        };
        IsolationError::Invalid { what: format!("path {}", path.display()), reason }
    }
}

/// Returns the cause and the remedy of a path that could not be opened.
fn not_opened(errno: Errno) -> String {
    let remedy = match errno {
        Errno::ACCESS => "let this user enter the directories above the path",
        Errno::NOENT | Errno::NOTDIR => "create the path",
        _ => "use another path",
    };
    format!("{} — {remedy}, or drop the grant", std::io::Error::from(errno))
}

/// Walks along `path` one name at a time, and follows links like the kernel.
fn walk(path: &Path, guard: &Guard, links: Links) -> Result<OwnedFd, Stop> {
    let mut at = object::open(Path::new("/"))?;
    let mut rest = names(path);
    let mut followed = 0;
    while let Some(name) = rest.pop() {
        let next = rustix::fs::openat(&at, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if !FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode).is_symlink() {
            at = next;
            continue;
        }
        followed += 1;
        if followed > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = PathBuf::from(OsString::from_vec(rustix::fs::readlinkat(&next, c"", Vec::new())?.into_bytes()));
        if links == Links::Refuse && may_be_a_payloads(&at, guard) {
            let directory = object::path(at.as_fd()).unwrap_or_default();
            return Err(Stop::Untrusted(directory.join(&name), target));
        }
        if target.is_absolute() {
            at = object::open(Path::new("/"))?;
        }
        rest.extend(names(&target));
    }
    Ok(at)
}

/// Returns the names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let named =
        |part: Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir).then(|| part.as_os_str().to_owned());
    path.components().rev().filter_map(named).collect()
}

/// Returns whether a payload may have created a link in `directory`. A payload writes only to granted directories, as their
/// owner. The answer therefore does not depend on a record of past grants.
fn may_be_a_payloads(directory: &OwnedFd, guard: &Guard) -> bool {
    let user = rustix::process::geteuid();
    let writable = || {
        let own = rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_uid == user.as_raw());
        let place = format!("/proc/self/fd/{}", directory.as_raw_fd());
        own || rustix::fs::accessat(CWD, place, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    };
    let grantable = object::path(directory.as_fd()).map_or(true, |path| guard.could_be_granted(&path));
    grantable && (user.is_root() || writable())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn path_with_links_resolves_as_in_kernel() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("../a/b/..", root.join("a/up")).unwrap();
        symlink(root.join("a/up"), root.join("all")).unwrap();
        symlink("turn", root.join("turn")).unwrap();
        let guard = Guard::for_home(None);
        for (path, linked) in [("all/b", true), ("a/up/up/b", true), ("a/../a/b", false)] {
            let found = find(&root.join(path), &guard, Links::Follow).unwrap();
            assert_eq!((found.path, found.linked), (root.join("a/b"), linked), "{path}");
        }
        for path in ["turn", "nothing", "all/nothing"] {
            assert!(find(&root.join(path), &guard, Links::Follow).is_err(), "{path}");
        }
    }

    #[test]
    fn link_in_payload_writable_directory_is_refused_without_follow_links() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::for_home(Some(home.as_os_str()));
        fs::create_dir_all(home.join("project/data")).unwrap();
        symlink("project", home.join("here")).unwrap();
        symlink("data", home.join("project/other")).unwrap();
        // A home directory is never granted as a whole, so a payload cannot create links in it.
        assert_eq!(find(&home.join("here/data"), &guard, Links::Refuse).unwrap().path, home.join("project/data"));
        let refused = find(&home.join("project/other"), &guard, Links::Refuse).unwrap_err().to_string();
        assert!(refused.contains("--follow-links") && refused.contains("a symbolic link to data"), "{refused}");
        assert!(find(&home.join("project/other"), &guard, Links::Follow).is_ok());
    }

    #[test]
    fn link_next_to_payload_created_secret_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::for_home(Some(home.as_os_str()));
        fs::create_dir_all(home.join("other-project")).unwrap();
        fs::create_dir_all(home.join(".m2")).unwrap();
        assert_eq!(guard.refusal(&home.join(".m2")), None);
        // A payload that may write to .m2 can create both.
        fs::write(home.join(".m2/settings.xml"), "").unwrap();
        symlink(home.join("other-project"), home.join(".m2/repository")).unwrap();
        assert!(guard.refusal(&home.join(".m2")).is_some());
        let refused = find(&home.join(".m2/repository"), &guard, Links::Refuse).unwrap_err().to_string();
        assert!(refused.contains("--follow-links"), "{refused}");
    }
}
