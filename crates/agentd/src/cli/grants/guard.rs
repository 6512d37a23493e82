//! What is never granted: the system as a whole, a home directory as a whole, and the secrets in it.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// Directories that hold everything, or something of everybody's.
const NEVER: [&str; 25] = [
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

/// Where home directories lie, besides those that `/etc/passwd` names.
const HOMES: [&str; 2] = ["/home", "/var/home"];

/// What below makes a directory of `/etc/passwd` a person's, whatever the uid.
const PERSONS: [&str; 4] = ["/home", "/root", "/var/home", "/Users"];

/// Secrets below a home directory.
const SECRETS: [&str; 12] = [
    ".ssh",
    ".aws",
    ".gnupg",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".azure",
    ".config/gcloud",
    ".config/gh",
    ".local/share/keyrings",
];

const TOO_MUCH: &str =
    "it holds more than a project: go into a project's directory, name one with --workspace DIR, or use --workspace none";

/// The home directories of this machine, which no grant may hold.
pub(crate) struct Guard {
    own: Option<PathBuf>,
    homes: Vec<PathBuf>,
    above: Vec<PathBuf>,
}

impl Guard {
    /// The guard of a caller whose `HOME` is this. What it says is believed to be *a* home, never to be the only one.
    pub(crate) fn of(variable: Option<&OsStr>) -> Self {
        // Without the file there are the other signs of a home.
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
            .filter(|(uid, home)| *uid == 0 || *uid >= 1000 || PERSONS.iter().any(|p| home.starts_with(p)))
            .map(|(_, home)| home);
        let homes = own.iter().cloned().chain(users).chain(persons).map(real).collect();
        Self { own, homes, above: HOMES.map(|path| real(path.into())).to_vec() }
    }

    /// The caller's home directory, as it is named.
    pub(crate) fn home(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// Why `path`, which has no links in it, is not granted.
    pub(super) fn refusal(&self, path: &Path) -> Option<String> {
        let child = |above: &PathBuf| Some(above.join(path.strip_prefix(above).ok()?.components().next()?));
        let homes: Vec<PathBuf> = self.homes.iter().cloned().chain(self.above.iter().filter_map(child)).collect();
        let whole = NEVER.iter().any(|never| path == Path::new(never)) || self.above.iter().any(|above| above.starts_with(path));
        if whole || homes.iter().any(|home| home.starts_with(path)) || everybodys(path) {
            return Some(TOO_MUCH.to_owned());
        }
        homes.iter().flat_map(|home| SECRETS.iter().map(move |secret| (home.join(secret), secret))).find_map(|(place, secret)| {
            let advice = "copy what the command needs into a directory of its own";
            if path.starts_with(&place) {
                Some(format!("~/{secret} holds secrets: {advice}"))
            } else if place.starts_with(path) && place.symlink_metadata().is_ok() {
                Some(format!("it contains ~/{secret}, which holds secrets: {advice}"))
            } else {
                None
            }
        })
    }
}

/// Uid and home of a line of `/etc/passwd` (`passwd(5)`).
fn entry(line: &[u8]) -> Option<(u32, PathBuf)> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    let uid = std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?;
    let home = PathBuf::from(OsStr::from_bytes(fields.get(5)?));
    home.is_absolute().then_some((uid, home))
}

fn real(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

/// Whether anybody may make files in it, as in `/tmp`.
fn everybodys(path: &Path) -> bool {
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
    fn everybodys_home_is_guarded_whatever_home_says() {
        for variable in [None, Some(OsStr::new("/somewhere/else")), Some(OsStr::new("/")), Some(OsStr::new(""))] {
            let guard = Guard::with(variable, PASSWD, 1000);
            for path in ["/", "/data", "/data/people", "/data/people/ada", "/data/people/ada/.ssh/id", "/root", "/home/any"] {
                assert!(refused(&guard, path), "{path} with {variable:?}");
            }
            for path in ["/home/any/.ssh", "/home/any/.config/gh", "/home/group", "/home/group/old", "/root/.aws/credentials"] {
                assert!(refused(&guard, path), "{path} with {variable:?}");
            }
            for path in ["/data/people/ada/project", "/home/any/project", "/var/lib/svc", "/srv/site"] {
                assert!(!refused(&guard, path), "{path} with {variable:?}");
            }
        }
    }

    #[test]
    fn without_a_home_variable_there_is_that_of_the_user() {
        assert_eq!(Guard::with(None, PASSWD, 200).home(), Some(Path::new("/var/lib/svc")));
        assert!(refused(&Guard::with(None, PASSWD, 200), "/var/lib/svc"));
        assert_eq!(Guard::with(Some(OsStr::new("/h")), PASSWD, 200).home(), Some(Path::new("/h")));
        assert_eq!(Guard::with(None, b"", 200).home(), None);
    }

    #[test]
    fn what_contains_a_secret_that_is_there_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let guard = Guard::with(Some(home.as_os_str()), b"", 1000);
        std::fs::create_dir_all(home.join(".config/mine")).unwrap();
        assert_eq!(guard.refusal(&home.join(".config")), None);
        std::fs::create_dir_all(home.join(".config/gh")).unwrap();
        assert!(guard.refusal(&home.join(".config")).unwrap().contains("it contains ~/.config/gh"));
        assert_eq!(guard.refusal(&home.join(".config/mine")), None);
    }

    #[test]
    fn what_everybody_may_write_to_is_refused() {
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
