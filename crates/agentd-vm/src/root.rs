//! The root file system: ext4, without a journal, made by `mke2fs -d` from a tree or from layers that overlayfs shows it as one.
//!
//! `mke2fs` runs in namespaces of its own. As root's it has its own mounts, for the overlay; as an ordinary user's it is root of a user
//! namespace besides, so that what that user has belongs to root inside the image, and the overlay may be mounted.

use crate::error::{AssetError, Context};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags},
    thread::UnshareFlags,
};
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::IntoRawFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where `mke2fs` is, also for those whose path has no `sbin`.
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";
const BLOCK: u64 = 4096;
/// Beside what files take: group descriptors, bitmaps, the directory of what is found.
const FIXED_BYTES: u64 = 16 << 20;
const INODE_BYTES: u64 = 256;
/// As many files fit into what is free as `mke2fs` would reckon with.
const BYTES_PER_SPARE_INODE: u64 = 16 << 10;
/// Descriptors from here on are free in the process that becomes `mke2fs`: short names, so that many layers fit into a page.
const FIRST_LAYER: i32 = 100;

/// What a tree takes in a file system.
#[derive(Debug, Default, PartialEq, Eq)]
struct Room {
    blocks: u64,
    inodes: u64,
}

/// Makes the file `out` from `layers`, the lowest first, with `spare` bytes that are free. Free ones take no room in the file.
///
/// # Errors
/// [`AssetError::Root`] says what is missing.
pub fn make(layers: &[PathBuf], spare: u64, out: &Path) -> Result<(), AssetError> {
    let mut room = Room::default();
    for layer in layers {
        measure(layer, &mut room).context(|| format!("measure {}", layer.display()))?;
    }
    if room.inodes == 0 {
        return Err(AssetError::Root("the image has no files".to_owned()));
    }
    let inodes = room.inodes + room.inodes / 16 + 64 + spare / BYTES_PER_SPARE_INODE;
    let bytes = (room.blocks + room.blocks / 16) * BLOCK + inodes * INODE_BYTES + FIXED_BYTES + spare;
    let file = File::create_new(out).context(|| format!("make {}", out.display()))?;
    file.set_len(bytes.next_multiple_of(BLOCK)).context(|| format!("set the size of {}", out.display()))?;
    let target = tempfile::tempdir().context(|| "make a mount point".to_owned())?;
    let namespaces = Namespaces::plan(layers, target.path())?;
    let tree = if layers.len() == 1 { layers[0].as_path() } else { target.path() };
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^has_journal,^resize_inode"])
        .args(["-N", &inodes.to_string(), "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard", "-d"])
        .args([tree, out])
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec `enter` makes system calls with values that were made before; it neither allocates nor locks.
    unsafe { command.pre_exec(move || namespaces.enter()) };
    let made = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => AssetError::Root("there is no mke2fs — install e2fsprogs".to_owned()),
        _ => AssetError::Root(format!(
            "run mke2fs in its own namespaces: {error} — as an ordinary user, allow user namespaces \
             (sysctl user.max_user_namespaces > 0, kernel.unprivileged_userns_clone=1 where it exists)"
        )),
    })?;
    if made.status.success() {
        return Ok(());
    }
    Err(AssetError::Root(format!("mke2fs: {}: {}", made.status, String::from_utf8_lossy(&made.stderr).trim())))
}

/// Adds up what a tree takes.
fn measure(dir: &Path, room: &mut Room) -> io::Result<()> {
    let mut next = vec![dir.to_path_buf()];
    while let Some(dir) = next.pop() {
        room.inodes += 1;
        room.blocks += fs::symlink_metadata(&dir)?.len().div_ceil(BLOCK).max(1);
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                next.push(entry.path());
            } else {
                room.inodes += 1;
                room.blocks += meta.len().div_ceil(BLOCK);
            }
        }
    }
    Ok(())
}

/// Where `mke2fs` runs: everything is prepared, because nothing may be allocated after the fork.
struct Namespaces {
    /// The id maps of a user namespace; none as root.
    maps: Option<[CString; 2]>,
    /// Options of the overlay, and where it is mounted.
    overlay: Option<(CString, CString)>,
    /// The layers in the order of the options, which name them by the descriptors from [`FIRST_LAYER`] on.
    layers: Vec<CString>,
}

impl Namespaces {
    fn plan(layers: &[PathBuf], target: &Path) -> Result<Self, AssetError> {
        let user = rustix::process::geteuid();
        let c = |text: String| CString::new(text).map_err(io::Error::from).context(|| "a name with a NUL".to_owned());
        let maps = if user.is_root() {
            None
        } else {
            let group = rustix::process::getegid().as_raw();
            Some([c(format!("0 {} 1", user.as_raw()))?, c(format!("0 {group} 1"))?])
        };
        if layers.len() == 1 {
            return Ok(Self { maps, overlay: None, layers: Vec::new() });
        }
        let names: Vec<String> = (FIRST_LAYER..).take(layers.len()).map(|number| format!("/proc/self/fd/{number}")).collect();
        // Marks of an image's layers are in both families of attributes; a user namespace reads the user's.
        let family = if maps.is_some() { ",userxattr" } else { "" };
        let options = c(format!("lowerdir={}{family}", names.join(":")))?;
        let target = c(target.to_string_lossy().into_owned())?;
        let name = |layer: &PathBuf| CString::new(layer.as_os_str().as_bytes()).map_err(io::Error::from);
        let layers = layers.iter().rev().map(name).collect::<io::Result<_>>().context(|| "a name with a NUL".to_owned())?;
        Ok(Self { maps, overlay: Some((options, target)), layers })
    }

    /// Called after a fork: system calls only.
    fn enter(&self) -> io::Result<()> {
        let user = if self.maps.is_some() { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
        // SAFETY: this process has one thread, which shares nothing that would be undone, and executes another program next.
        unsafe { rustix::thread::unshare_unsafe(user | UnshareFlags::NEWNS) }?;
        if let Some([users, groups]) = &self.maps {
            for (file, text) in
                [(c"/proc/self/setgroups", c"deny"), (c"/proc/self/uid_map", users.as_c_str()), (c"/proc/self/gid_map", groups)]
            {
                let file = rustix::fs::open(file, OFlags::WRONLY, Mode::empty())?;
                rustix::io::write(&file, text.to_bytes())?;
            }
        }
        rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        if let Some((options, target)) = &self.overlay {
            // Opened here: a mount of another namespace cannot be a layer. They live until this process executes another program.
            for (layer, number) in self.layers.iter().zip(FIRST_LAYER..) {
                let opened =
                    rustix::fs::open(layer.as_c_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                let placed = rustix::io::fcntl_dupfd_cloexec(&opened, number)?.into_raw_fd();
                if placed != number {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
            }
            rustix::mount::mount(c"overlay", target.as_c_str(), c"overlay", MountFlags::RDONLY, Some(options.as_c_str()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_layers_hold_is_in_the_image_and_belongs_to_root() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["low", "high"].map(|name| dir.path().join(name)).to_vec();
        for (layer, file) in layers.iter().zip(["below", "above"]) {
            fs::create_dir_all(layer.join("etc")).unwrap();
            fs::write(layer.join("etc").join(file), file.repeat(3000)).unwrap();
        }
        let out = dir.path().join("root.ext4");
        make(&layers, 0, &out).unwrap();
        for file in ["below", "above"] {
            let shown = Command::new("/sbin/debugfs").args(["-R", &format!("stat /etc/{file}")]).arg(&out).output().unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains("Size: 15000"), "{shown}");
            assert!(shown.contains("User:     0"), "{shown}");
        }
    }
}
