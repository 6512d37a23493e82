//! Builds a directory of assets.

use crate::{
    assets::{self, Assets, MANIFEST, MODULES_CPIO, ROOT_EXT4, VMLINUX},
    cpio::Archive,
    error::{AssetError, IoContext},
    kernel,
    manifest::{FORMAT, Kernel, Manifest},
    modules::{Module, NEEDED, OPTIONAL},
    root,
};
use agentd_disk::Scratch;
use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The sources of the assets.
#[derive(Debug)]
pub struct Builder {
    /// The trees of the root file system, lowest first, which overlayfs merges.
    pub layers: Vec<PathBuf>,
    /// A description of the layers, for the manifest.
    pub source: String,
    /// A Debian kernel package, a bzImage or an ELF kernel. `None` selects the newest installed kernel.
    pub kernel: Option<PathBuf>,
}

impl Builder {
    /// Builds the assets in the directory `out`, which appears complete or not at all. An existing directory is replaced only if
    /// it holds assets.
    ///
    /// Needs `mke2fs`, and a user namespace if the caller is not root. If the caller is root, files keep their owners in the file
    /// system; otherwise files of the caller belong to root there.
    ///
    /// # Errors
    /// Any [`AssetError`]; its message names the missing or unreadable source and the remedy.
    pub fn build(&self, out: &Path) -> Result<Assets, AssetError> {
        let found = kernel::find(self.kernel.as_deref())?;
        let modules = found.modules.needed(&found.release, &NEEDED, &OPTIONAL)?;
        if out.symlink_metadata().is_ok() && !out.join(MANIFEST).is_file() {
            return Err(AssetError::Occupied(out.to_path_buf()));
        }
        let parent = out.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).context(|| format!("create {}", parent.display()))?;
        let scratch = Scratch::make(parent, ".agentd-vm")
            .map_err(io::Error::other)
            .context(|| format!("create a directory in {}", parent.display()))?;
        let fresh = scratch.path().join("assets");
        fs::create_dir(&fresh).context(|| format!("create {}", fresh.display()))?;
        let place = |name: &str| fresh.join(name);
        fs::write(place(VMLINUX), &found.elf).context(|| "write the kernel".to_owned())?;
        write_modules(&place(MODULES_CPIO), &modules).context(|| "write the modules".to_owned())?;
        root::make(&self.layers, 0, &place(ROOT_EXT4))?;
        let manifest = Manifest {
            format: FORMAT,
            kernel: Kernel { release: found.release },
            modules: modules.into_iter().map(|module| module.name).collect(),
            source: self.source.clone(),
            vmlinux: assets::digest(&place(VMLINUX))?,
            modules_cpio: assets::digest(&place(MODULES_CPIO))?,
            root_ext4: assets::digest(&place(ROOT_EXT4))?,
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::from).context(|| "write the manifest".to_owned())?;
        fs::write(place(MANIFEST), text).context(|| "write the manifest".to_owned())?;
        put_in_place(&fresh, out).context(|| format!("move the assets to {}", out.display()))?;
        Assets::open(out)
    }
}

fn put_in_place(fresh: &Path, out: &Path) -> io::Result<()> {
    fs::set_permissions(fresh, Permissions::from_mode(0o755))?;
    for name in [VMLINUX, MODULES_CPIO, ROOT_EXT4, MANIFEST] {
        let path = fresh.join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        File::open(&path)?.sync_all()?;
    }
    // After the exchange, the old assets are in the scratch directory and are removed with it. Running machines keep the old
    // files open.
    if out.symlink_metadata().is_ok() {
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, fresh, rustix::fs::CWD, out, exchange)?;
        return Ok(());
    }
    fs::rename(fresh, out)
}

/// Writes the modules, named after themselves, and their load order as a list.
fn write_modules(path: &Path, modules: &[Module]) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    archive.directory("modules")?;
    let mut order = String::new();
    for module in modules {
        let file = format!("{}.ko", module.name);
        archive.file(&format!("modules/{file}"), 0o444, &module.content)?;
        order.push_str(&file);
        order.push('\n');
    }
    archive.file("modules/order", 0o444, order.as_bytes())?;
    archive.finish()?.flush()
}
