//! Paths that are never granted: system directories as a whole, home directories as a whole, and the secrets in home directories.

use super::secrets::{SECRETS, Secret};
use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// Directories that contain the whole system, or data of several users.
const REFUSED_DIRECTORIES: [&str; 25] = [
    "/",
    "/home",
    "/root",
    "/etc",
    "/usr",
    "/usr/local",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/boot",
    "/dev",
    "/dev/shm",
    "/proc",
    "/sys",
    "/run",
    "/run/user",
    "/var",
    "/var/lib",
    "/var/tmp",
    "/tmp",
    "/opt",
    "/mnt",
    "/media",
    "/srv",
];

/// Parent directories of home directories, in addition to the homes that `/etc/passwd` names.
const HOMES: [&str; 2] = ["/home", "/var/home"];

/// Directories below which a home of `/etc/passwd` is treated as that of a person, whatever its uid.
const PARENTS_OF_HOMES: [&str; 4] = ["/home", "/root", "/var/home", "/Users"];

/// The reason for a system directory. Without an image, the command can read the programs and settings of the system.
const SYSTEM: &str = "this system directory is never granted as a whole — grant the subdirectory or file that the command needs \
    (without an image, /usr, /etc and /opt can be read without a grant), or use --workspace DIR or --workspace none";

/// The reason for a home directory, and for a directory that contains home directories.
const CONTAINS_HOME: &str = "the directory is or contains a home directory, which has more than one project — change to a \
    project's directory, or use --workspace DIR or --workspace none";

const WORLD_WRITABLE: &str =
    "every user may create files in this directory (mode 1777) — use a subdirectory of your own, or --workspace none";

/// Decides which paths are never granted, from the home directories of this host.
#[derive(Debug, Clone)]
pub struct Guard {
    own: Option<PathBuf>,
    homes: Vec<PathBuf>,
    above: Vec<PathBuf>,
}

impl Guard {
    /// Creates the guard of this process, from the home directory in `HOME` and those in `/etc/passwd`.
    pub fn host() -> Self {
        Self::for_home(std::env::var_os("HOME").as_deref())
    }

    /// Creates the guard of a caller whose `HOME` is `variable`. The variable can add a home directory, but not remove one.
    pub fn for_home(variable: Option<&OsStr>) -> Self {
        // If the file cannot be read, `HOME` and the parent directories of homes still identify home directories.
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        Self::with(variable, &passwd, rustix::process::geteuid().as_raw())
    }

    fn with(variable: Option<&OsStr>, passwd: &[u8], user: u32) -> Self {
        let entries: Vec<(u32, PathBuf)> = passwd.split(|b| *b == b'\n').filter_map(entry).collect();
        let named = variable.map(PathBuf::from).filter(|home| home.is_absolute() && home != Path::new("/"));
        let users = entries.iter().find(|(uid, home)| *uid == user && home != Path::new("/")).map(|(_, home)| home.clone());
        let own = named.or_else(|| users.clone());
        let persons = entries
            .into_iter()
            .filter(|(uid, home)| *uid == 0 || *uid >= 1000 || PARENTS_OF_HOMES.iter().any(|p| home.starts_with(p)))
            .map(|(_, home)| home);
        let mut homes: Vec<PathBuf> = own.iter().cloned().chain(users).chain(persons).collect();
        // `HOME` and several users often name the same directory, and every path is compared with the secrets of each home.
        homes.sort_unstable();
        homes.dedup();
        let homes = homes.into_iter().map(real).collect();
        Self { own, homes, above: HOMES.map(|path| real(path.into())).to_vec() }
    }

    /// Returns the caller's home directory as named, with its symbolic links.
    pub fn home(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// Returns the reason why `path`, which must not contain links, is not granted.
    pub fn refusal(&self, path: &Path) -> Option<String> {
        let kept = || self.homes_above(path).iter().find_map(|home| contained_secret(path, home));
        self.refusal_of_place(path).or_else(|| is_world_writable(path).then(|| WORLD_WRITABLE.to_owned())).or_else(kept)
    }

    /// Returns whether a sandbox may have been allowed to write to `directory`, whose path must not contain links. A payload can
    /// have created a link only in such a directory. The current content of the directory does not matter, because a payload may
    /// have created that as well.
    pub(super) fn could_be_granted(&self, directory: &Path) -> bool {
        self.refusal_of_place(directory).is_none() || is_world_writable(directory)
    }

    /// Returns the reason why `path` is never granted, regardless of the files at and below it.
    fn refusal_of_place(&self, path: &Path) -> Option<String> {
        let homes = self.homes_above(path);
        let is_home = homes.iter().any(|home| home == path);
        // The root of the file system also contains the homes, but the reason for the system is more helpful.
        if path != Path::new("/") && (is_home || self.homes.iter().chain(&self.above).any(|home| home.starts_with(path))) {
            return Some(CONTAINS_HOME.to_owned());
        }
        if REFUSED_DIRECTORIES.iter().any(|never| path == Path::new(never)) {
            return Some(SYSTEM.to_owned());
        }
        homes.iter().find_map(|home| secret_above(path, home))
    }

    /// Returns the home directories that equal `path` or contain it: those of persons, and any child of a parent directory of
    /// homes.
    fn homes_above(&self, path: &Path) -> Vec<PathBuf> {
        let child = |above: &PathBuf| Some(above.join(path.strip_prefix(above).ok()?.components().next()?));
        let homes = self.homes.iter().cloned().chain(self.above.iter().filter_map(child));
        homes.filter(|home| path.starts_with(home)).collect()
    }
}

/// Advice for a caller who tried to grant a secret.
const COPY: &str = "copy the files that the command needs into another directory";

/// Returns the reason to refuse `path` if it is a secret of `home`, or lies in one.
fn secret_above(path: &Path, home: &Path) -> Option<String> {
    let below = path.strip_prefix(home).ok()?;
    let secret = secrets_near(below).find(|secret| below.starts_with(secret.path))?;
    Some(format!("~/{} holds {} — {COPY}", secret.path, secret.holds))
}

/// Returns the reason to refuse `path` if it contains an existing secret of `home`.
fn contained_secret(path: &Path, home: &Path) -> Option<String> {
    let below = path.strip_prefix(home).ok()?;
    let contained = |secret: &Path| secret.starts_with(below) && home.join(secret).symlink_metadata().is_ok();
    let secret = secrets_near(below).find(|secret| contained(Path::new(secret.path)))?;
    Some(format!("the directory contains ~/{}, which holds {} — {COPY}", secret.path, secret.holds))
}

/// Returns the secrets whose path begins with the bytes of the first name in `below`. All secrets that contain `below` or lie in
/// it are among them. Most grants have none, and comparing bytes is much faster than comparing paths.
fn secrets_near(below: &Path) -> impl Iterator<Item = &'static Secret> {
    let first = below.iter().next().unwrap_or_default().as_bytes();
    SECRETS.iter().filter(move |secret| secret.path.as_bytes().starts_with(first))
}

/// Parses the uid and the home directory from a line of `/etc/passwd` (`passwd(5)`).
fn entry(line: &[u8]) -> Option<(u32, PathBuf)> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    let uid = std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?;
    let home = PathBuf::from(OsStr::from_bytes(fields.get(5)?));
    home.is_absolute().then_some((uid, home))
}

fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

/// Returns whether every user may create files in the directory, as in `/tmp`.
fn is_world_writable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & 0o1002 == 0o1002)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        daemon:x:1:1::/usr/sbin:/bin/false\n\
        svc:x:200:200::/var/lib/svc:/bin/false\n\
        old:x:500:500::/home/group/old:/bin/sh\n\
        ada:x:1000:1000:Ada,,,:/data/people/ada:/bin/sh\n\
        broken line\n";

    fn refused(guard: &Guard, path: &str) -> bool {
        guard.refusal(Path::new(path)).is_some()
    }

    #[test]
    fn homes_of_all_users_are_refused_for_any_home_variable() {
        for variable in [None, Some(OsStr::new("/somewhere/else")), Some(OsStr::new("/")), Some(OsStr::new(""))] {
            let guard = Guard::with(variable, PASSWD, 1000);
            for path in ["/", "/data", "/data/people", "/data/people/ada", "/data/people/ada/.ssh/id", "/root", "/home/any"] {
                assert!(refused(&guard, path), "{path} with {variable:?}");
            }
            for path in ["/home/any/.ssh", "/home/any/.config/gh", "/home/group", "/home/group/old", "/root/.aws/credentials"] {
                assert!(refused(&guard, path), "{path} with {variable:?}");
            }
            for path in [
                "/data/people/ada/project",
                "/data/people/ada/.ssh-config",
                "/home/any/project",
                "/home/any/.s",
                "/var/lib/svc",
                "/srv/site",
            ] {
                assert!(!refused(&guard, path), "{path} with {variable:?}");
            }
        }
    }

    #[test]
    fn refusal_names_the_kind_of_directory() {
        let guard = Guard::with(Some(OsStr::new("/h/me")), PASSWD, 1000);
        for path in ["/", "/etc", "/usr", "/opt", "/var/lib", "/tmp"] {
            assert_eq!(guard.refusal(Path::new(path)).as_deref(), Some(SYSTEM), "{path}");
        }
        for path in ["/h/me", "/h", "/home", "/home/any", "/root", "/data", "/data/people/ada"] {
            assert_eq!(guard.refusal(Path::new(path)).as_deref(), Some(CONTAINS_HOME), "{path}");
        }
    }

    #[test]
    fn home_without_variable_comes_from_passwd() {
        assert_eq!(Guard::with(None, PASSWD, 200).home(), Some(Path::new("/var/lib/svc")));
        assert!(refused(&Guard::with(None, PASSWD, 200), "/var/lib/svc"));
        assert_eq!(Guard::with(Some(OsStr::new("/h")), PASSWD, 200).home(), Some(Path::new("/h")));
        assert_eq!(Guard::with(None, b"", 200).home(), None);
    }

    #[test]
    fn directory_containing_existing_secret_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::with(Some(home.as_os_str()), b"", 1000);
        std::fs::create_dir_all(home.join(".config/mine")).unwrap();
        assert_eq!(guard.refusal(&home.join(".config")), None);
        std::fs::create_dir_all(home.join(".config/gh")).unwrap();
        assert!(guard.refusal(&home.join(".config")).unwrap().contains("contains ~/.config/gh"));
        assert_eq!(guard.refusal(&home.join(".config/mine")), None);
    }

    #[test]
    fn world_writable_directory_is_refused() {
        let guard = Guard::with(None, b"", 1000);
        for path in ["/tmp", "/var/tmp", "/run/user", "/media", "/var/lib", "/usr/local", "/dev/shm"] {
            assert!(refused(&guard, path), "{path}");
        }
        let root = tempfile::tempdir().unwrap();
        let drop = root.path().join("drop");
        std::fs::create_dir(&drop).unwrap();
        assert_eq!(guard.refusal(&drop), None);
        std::fs::set_permissions(&drop, PermissionsExt::from_mode(0o1777)).unwrap();
        assert!(guard.refusal(&drop).is_some());
    }
}
