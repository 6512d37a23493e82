//! Sets up an installation.

use super::{
    daemons,
    downloads::Downloads,
    error::{IoContext, SetupError},
    guest::{self, GuestParts},
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

/// The prefixes of the names of parts.
const KINDS: [&str; 5] = ["node-", "package-", "daemons-", "debian-", "guest-"];

/// The options of [`set_up`].
#[derive(Debug, Default)]
pub struct SetupRequest {
    /// A directory of existing downloads. If `None`, downloads are fetched, and kept in the installation.
    pub offline: Option<PathBuf>,
    /// The file tree of the guest. If `None`, a Debian system is used.
    pub root: Option<PathBuf>,
}

/// Creates the installation in `home`, or its missing parts. Calls `announce` with the name of each step that may take time,
/// before the step.
///
/// # Errors
/// A [`SetupError`] that names the missing part, and the command that provides it. The parts that are already complete are kept.
pub fn set_up(home: &Path, request: &SetupRequest, mut announce: impl FnMut(&str)) -> Result<Installation, SetupError> {
    for (program, package) in [("qemu-system-x86_64", "qemu-system-x86"), ("python3", "python3"), ("mke2fs", "e2fsprogs")] {
        let mut version = Command::new(program);
        version.env("PATH", path()).arg(if program == "mke2fs" { "-V" } else { "--version" });
        tool::run(&mut version, &format!("run apt-get install {package}"))?;
    }
    fs::create_dir_all(home).context(|| format!("create {}", home.display()))?;
    let home = &home.canonicalize().context(|| format!("resolve {}", home.display()))?;
    // Only one setup runs at a time. Remove incomplete parts first, which a killed setup may have left.
    let lock = File::create(home.join("lock")).context(|| format!("lock {}", home.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context(|| format!("lock {}", home.display()))?;
    remove(home, |name| name.starts_with(UNFINISHED) || name.starts_with(".tmp"))?;
    let own = home.join("downloads");
    let downloads = Downloads::new(request.offline.clone().unwrap_or(own), request.offline.is_none())?;
    announce("Node");
    let node = programs::node(home, &downloads)?;
    announce("the npm package of Gondolin");
    let package = programs::package(home, &downloads, &node)?;
    announce("Gondolin's guest daemons (the first build takes one to two minutes)");
    let daemons = daemons::daemons(home, &downloads, &package)?;
    announce("the file tree of the guest");
    let root = root::root(home, &downloads, request.root.as_deref())?;
    announce("the kernel and disk image of the guest");
    let parts = GuestParts { node: &node, package: &package, daemons: &daemons, root: &root };
    let guest = guest::guest(home, &downloads, &parts)?;
    let record = Record::new(&node, &package, &guest);
    write_record(home, &record).context(|| format!("write {}", home.join(RECORD).display()))?;
    // Remove the old parts. Running machines keep the files open that they need.
    let kept = [&node, &package, &daemons, &root.path, &guest].map(|path| path.file_name().unwrap_or_default().to_owned());
    remove(home, |name| KINDS.iter().any(|kind| name.starts_with(kind)) && !kept.iter().any(|kept| kept == name))?;
    Installation::open(home)
}

/// Returns the search path with `sbin` added, which an ordinary user's `PATH` may lack.
fn path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn write_record(home: &Path, record: &Record) -> std::io::Result<()> {
    let mut fresh = tempfile::NamedTempFile::new_in(home)?;
    fresh.write_all(&serde_json::to_vec_pretty(record)?)?;
    let world_readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fresh.as_file().set_permissions(world_readable)?;
    fresh.as_file().sync_all()?;
    fresh.persist(home.join(RECORD)).map(drop).map_err(|error| error.error)
}

/// Removes the entries of `home` whose names are `unwanted`.
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
