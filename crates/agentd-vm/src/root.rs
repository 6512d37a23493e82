//! Creates the root file system: ext4 without a journal. `mke2fs -d` fills it from one tree, or from layers that overlayfs
//! merges.
//!
//! `mke2fs` runs in its own mount namespace, for the mount of the overlay. If the caller is not root, it also runs in a user
//! namespace with the caller mapped to root. Then the caller's files belong to root in the image, and mounting the overlay is
//! permitted.

use crate::error::{AssetError, IoContext};
use agentd_disk::Scratch;
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

/// The search path for `mke2fs`, with `sbin`, which an ordinary user's `PATH` may lack.
const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";
const BLOCK: u64 = 4096;
/// Space for group descriptors, bitmaps and `lost+found`, in addition to the files, in bytes.
const FIXED_BYTES: u64 = 16 << 20;
const INODE_BYTES: u64 = 256;
/// The bytes of free space per additional inode, as in the default of `mke2fs`.
const BYTES_PER_SPARE_INODE: u64 = 16 << 10;
/// The first descriptor number for layers; unused in the process that becomes `mke2fs`. Paths by number are short, so that the
/// mount options of many layers fit into one page.
const FIRST_LAYER: i32 = 100;

/// The space that trees take in a file system.
#[derive(Debug, Default, PartialEq, Eq)]
struct DiskUsage {
    blocks: u64,
    inodes: u64,
}

/// Creates the file system image `out` from `layers`, lowest first, with `spare` bytes of free space. Free space is sparse in the
/// file.
///
/// # Errors
/// [`AssetError::Root`] names the missing part and the remedy; [`AssetError::Io`] for other failures.
pub fn make(layers: &[PathBuf], spare: u64, out: &Path) -> Result<(), AssetError> {
    let mut usage = DiskUsage::default();
    for layer in layers {
        measure(layer, &mut usage).context(|| format!("measure {}", layer.display()))?;
    }
    if usage.inodes == 0 {
        return Err(AssetError::Root("the image has no files".to_owned()));
    }
    let inodes = usage.inodes + usage.inodes / 16 + 64 + spare / BYTES_PER_SPARE_INODE;
    let bytes = (usage.blocks + usage.blocks / 16) * BLOCK + inodes * INODE_BYTES + FIXED_BYTES + spare;
    let file = File::create_new(out).context(|| format!("create {}", out.display()))?;
    file.set_len(bytes.next_multiple_of(BLOCK)).context(|| format!("set the size of {}", out.display()))?;
    let target = Scratch::make(&std::env::temp_dir(), "agentd-mount")
        .map_err(io::Error::other)
        .context(|| "create a mount point".to_owned())?;
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
    // SAFETY: between fork and exec, `enter` makes only system calls, with arguments prepared before the fork. It neither
    // allocates nor locks.
    unsafe { command.pre_exec(move || namespaces.enter()) };
    let made = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => AssetError::Root("mke2fs not found — install e2fsprogs".to_owned()),
        _ => AssetError::Root(format!(
            "run mke2fs in new namespaces: {error} — if you are not root, allow user namespaces \
             (sysctl user.max_user_namespaces > 0, and kernel.unprivileged_userns_clone=1 if that key exists)"
        )),
    })?;
    if made.status.success() {
        return Ok(());
    }
    Err(AssetError::Root(format!("mke2fs: {}: {}", made.status, String::from_utf8_lossy(&made.stderr).trim())))
}

/// Adds the space of a tree to `usage`.
fn measure(dir: &Path, usage: &mut DiskUsage) -> io::Result<()> {
    let mut next = vec![dir.to_path_buf()];
    while let Some(dir) = next.pop() {
        usage.inodes += 1;
        usage.blocks += fs::symlink_metadata(&dir)?.len().div_ceil(BLOCK).max(1);
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                next.push(entry.path());
            } else {
                usage.inodes += 1;
                usage.blocks += meta.len().div_ceil(BLOCK);
            }
        }
    }
    Ok(())
}

/// The namespaces of `mke2fs`. All arguments are prepared in advance, because nothing may be allocated after the fork.
struct Namespaces {
    /// The uid and gid maps of the user namespace; `None` if the caller is root.
    maps: Option<[CString; 2]>,
    /// The options and the mount point of the overlay.
    overlay: Option<(CString, CString)>,
    /// The paths of the layers, highest first. The overlay options refer to them by descriptors from [`FIRST_LAYER`] on.
    layers: Vec<CString>,
}

impl Namespaces {
    fn plan(layers: &[PathBuf], target: &Path) -> Result<Self, AssetError> {
        let user = rustix::process::geteuid();
        let c = |text: String| CString::new(text).map_err(io::Error::from).context(|| "a path contains a NUL byte".to_owned());
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
        // Layers have their overlay marks in the `user.` xattrs, and those that root unpacked also in the `trusted.` xattrs.
        // An overlay mounted in a user namespace reads only the `user.` xattrs (`Documentation/filesystems/overlayfs.rst`).
        let family = if maps.is_some() { ",userxattr" } else { "" };
        let options = c(format!("lowerdir={}{family}", names.join(":")))?;
        let target = c(target.to_string_lossy().into_owned())?;
        let name = |layer: &PathBuf| CString::new(layer.as_os_str().as_bytes()).map_err(io::Error::from);
        let layers =
            layers.iter().rev().map(name).collect::<io::Result<_>>().context(|| "a path contains a NUL byte".to_owned())?;
        Ok(Self { maps, overlay: Some((options, target)), layers })
    }

    /// Enters the namespaces. Called after a fork, so it may only make system calls.
    fn enter(&self) -> io::Result<()> {
        let user = if self.maps.is_some() { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
        // SAFETY: this process is single-threaded, so no thread loses state that it shares, and it executes another program next.
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
            // Open the layers in the new namespace: a mount of another namespace cannot be a layer. The descriptors are closed on
            // exec.
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
    fn image_of_two_layers_holds_files_of_both_owned_by_root() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["low", "high"].map(|name| dir.path().join(name)).to_vec();
        for (layer, file) in layers.iter().zip(["below", "above"]) {
            fs::create_dir_all(layer.join("etc")).unwrap();
            fs::write(layer.join("etc").join(file), file.repeat(3000)).unwrap();
        }
        let out = dir.path().join("root.ext4");
        make(&layers, 0, &out).unwrap();
        for file in ["below", "above"] {
            let stat = Command::new("/sbin/debugfs").args(["-R", &format!("stat /etc/{file}")]).arg(&out).output().unwrap();
            let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
            assert!(stat.contains("Size: 15000"), "{stat}");
            assert!(stat.contains("User:     0"), "{stat}");
        }
    }
}
