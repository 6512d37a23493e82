//! Making assets.

use crate::{
    assets::{self, Assets, MANIFEST, MODULES_CPIO, ROOT_EXT4, VMLINUX},
    cpio::Archive,
    error::{AssetError, Context},
    kernel,
    manifest::{FORMAT, Kernel, Manifest},
    modules::{Module, NEEDED, WELCOME},
    root,
};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What assets are made of.
#[derive(Debug)]
pub struct Builder {
    /// The trees of the root file system, the lowest first, as overlayfs stacks them.
    pub layers: Vec<PathBuf>,
    /// What they are, in words for the manifest.
    pub source: String,
    /// A Debian kernel package, a bzImage or an ELF kernel; the newest installed one when absent.
    pub kernel: Option<PathBuf>,
}

impl Builder {
    /// Makes the directory `out`, which is whole or not there. What was there before is replaced if it was one of assets.
    ///
    /// Needs `mke2fs`, and of an ordinary user a user namespace. Root's files keep their owners, an ordinary user's become root's.
    ///
    /// # Errors
    /// What is missing or cannot be read, and the remedy.
    pub fn build(&self, out: &Path) -> Result<Assets, AssetError> {
        let found = kernel::find(self.kernel.as_deref())?;
        let modules = found.modules.needed(&found.release, &NEEDED, &WELCOME)?;
        if out.symlink_metadata().is_ok() && !out.join(MANIFEST).is_file() {
            return Err(AssetError::Root(format!("{} is there and holds no assets: name another place with -o", out.display())));
        }
        let parent = out.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).context(|| format!("make {}", parent.display()))?;
        let fresh =
            tempfile::Builder::new().prefix(".agentd-vm-").tempdir_in(parent).context(|| "make a directory".to_owned())?;
        let place = |name: &str| fresh.path().join(name);
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
        put_in_place(fresh, out).context(|| format!("put the assets at {}", out.display()))?;
        Assets::open(out)
    }
}

fn put_in_place(fresh: tempfile::TempDir, out: &Path) -> io::Result<()> {
    fs::set_permissions(fresh.path(), Permissions::from_mode(0o755))?;
    for name in [VMLINUX, MODULES_CPIO, ROOT_EXT4, MANIFEST] {
        let path = fresh.path().join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        File::open(&path)?.sync_all()?;
    }
    // The old ones lie in the fresh directory's place afterwards, and go with it. Machines that run have them open.
    if out.symlink_metadata().is_ok() {
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, fresh.path(), rustix::fs::CWD, out, exchange)?;
        return fresh.close();
    }
    fs::rename(fresh.keep(), out)
}

/// The modules by number, and their order in a list.
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
