//! Making an installation.

use crate::{
    daemons,
    downloads::Downloads,
    error::{Context, SetupError},
    guest::{self, Parts},
    installation::{Installation, RECORD, Record},
    part::UNFINISHED,
    programs, root, tool,
};
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Parts are called after their kind.
const KINDS: [&str; 5] = ["node-", "package-", "daemons-", "debian-", "guest-"];

/// What is to be set up.
#[derive(Debug, Default)]
pub struct Request {
    /// A directory of downloads to do with; without it they are fetched, and kept below the installation.
    pub offline: Option<PathBuf>,
    /// The file tree of the guest; a Debian when absent.
    pub root: Option<PathBuf>,
}

/// Makes the installation in `home`, or what is missing of it. `say` is told of each step that may take time.
///
/// # Errors
/// What is missing, and the command that provides it. What has been made until then is kept.
pub fn set_up(home: &Path, request: &Request, mut say: impl FnMut(&str)) -> Result<Installation, SetupError> {
    for (program, package) in [("qemu-system-x86_64", "qemu-system-x86"), ("python3", "python3"), ("mke2fs", "e2fsprogs")] {
        let mut version = Command::new(program);
        version.env("PATH", path()).arg(if program == "mke2fs" { "-V" } else { "--version" });
        tool::run(&mut version, &format!("install it: apt-get install {package}"))?;
    }
    fs::create_dir_all(home).context(|| format!("make {}", home.display()))?;
    let home = &home.canonicalize().context(|| format!("find {}", home.display()))?;
    // One at a time; a half part that another was killed at goes first.
    let lock = File::create(home.join("lock")).context(|| format!("lock {}", home.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context(|| format!("lock {}", home.display()))?;
    remove(home, |name| name.starts_with(UNFINISHED) || name.starts_with(".tmp"))?;
    let own = home.join("downloads");
    let downloads = Downloads::new(request.offline.clone().unwrap_or(own), request.offline.is_none())?;
    say("Node");
    let node = programs::node(home, &downloads)?;
    say("Gondolin's package");
    let package = programs::package(home, &downloads, &node)?;
    say("Gondolin's daemons, for a minute or two when they are built first");
    let daemons = daemons::daemons(home, &downloads, &package)?;
    say("the guest's file tree");
    let root = root::root(home, &downloads, request.root.as_deref())?;
    say("the guest");
    let parts = Parts { node: &node, package: &package, daemons: &daemons, root: &root };
    let guest = guest::guest(home, &downloads, &parts)?;
    let record = Record::new(&node, &package, &guest);
    write_record(home, &record).context(|| format!("write {}", home.join(RECORD).display()))?;
    // Machines that run have open what they need.
    let kept = [&node, &package, &daemons, &root.path, &guest].map(|path| path.file_name().unwrap_or_default().to_owned());
    remove(home, |name| KINDS.iter().any(|kind| name.starts_with(kind)) && !kept.iter().any(|kept| kept == name))?;
    Installation::open(home)
}

/// Where programs are, also for those whose path has no `sbin`.
fn path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn write_record(home: &Path, record: &Record) -> std::io::Result<()> {
    let mut fresh = tempfile::NamedTempFile::new_in(home)?;
    fresh.write_all(&serde_json::to_vec_pretty(record)?)?;
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fresh.as_file().set_permissions(everybody)?;
    fresh.as_file().sync_all()?;
    fresh.persist(home.join(RECORD)).map(drop).map_err(|error| error.error)
}

/// Removes what in `home` has such a name.
fn remove(home: &Path, unwanted: impl Fn(&str) -> bool) -> Result<(), SetupError> {
    for entry in fs::read_dir(home).context(|| format!("list {}", home.display()))? {
        let entry = entry.context(|| format!("list {}", home.display()))?;
        if !unwanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
