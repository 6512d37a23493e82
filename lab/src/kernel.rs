//! Prepares a kernel from its package: the modules, and the uncompressed kernel inside the package's `vmlinuz`. A machine boots a
//! second faster from an uncompressed kernel, and Firecracker accepts no other.

use crate::{
    args::KernelSeries,
    error::{Calling, LabError, format_error},
    packages,
    scratch::Scratch,
};
use agentd_vm::{BootKernel, cpio::Archive};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The modules that the lab loads, with their dependencies. A module that a kernel has built in, or does not have, is skipped.
const MODULES: [&str; 13] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "loop",
    "overlay",
    "fuse",
    "tun",
    "dummy",
    "vsock",
    "vsock_loopback",
    "vhost_vsock",
    "kvm_amd",
    "kvm_intel",
];

/// A kernel, ready to boot.
#[derive(Debug)]
pub struct Kernel {
    /// The uncompressed ELF file, which starts at the PVH entry point.
    pub vmlinux: PathBuf,
    /// The initial archive.
    pub initramfs: PathBuf,
    /// Name of the package, with its version, and a key of the selected modules.
    pub name: String,
}

impl KernelSeries {
    /// Returns the metapackage that depends on the newest kernel of the line.
    fn package(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-cloud-amd64",
            Self::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// Prepares the kernel of a line. The version is the newest one at the first call, and stays the same as long as `cache` is kept.
pub fn prepare(line: KernelSeries, cache: &Path) -> Result<Kernel, LabError> {
    let known = cache.join(format!("{}-{}", line.package(), key()));
    let name = match fs::read_link(&known) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => {
            let package = packages::current_package(line.package())?;
            eprintln!("lab: fetching {package}");
            let folder = format!("{package}-{}", key());
            make(&package, &cache.join(&folder))?;
            symlink(&folder, &known).on("link", &known)?;
            folder
        }
    };
    let folder = cache.join(&name);
    let kernel = Kernel { vmlinux: folder.join("vmlinux"), initramfs: folder.join("initramfs"), name };
    pack(&folder, &kernel.initramfs)?;
    Ok(kernel)
}

/// Returns a key of the list of modules: a kernel prepared with another list cannot be used.
fn key() -> String {
    Sha256::digest(MODULES.join(" ")).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Creates the files of a kernel that do not depend on this program: `vmlinux`, and the modules in the order of loading.
fn make(package: &str, folder: &Path) -> Result<(), LabError> {
    let staging = Scratch::new(&folder.with_file_name("scratch"), |_| ())?;
    let (downloads, new) = (staging.path().join("downloads"), staging.path().join("kernel"));
    fs::create_dir(&downloads).on("mkdir", &downloads)?;
    fs::create_dir_all(new.join("modules")).on("mkdir", &new)?;
    let file = packages::download(package, &downloads)?;
    let kernel = BootKernel::of_package(&file, &[], &MODULES).map_err(|error| format_error(package, error))?;
    let vmlinux = kernel.elf().map_err(|error| format_error(package, error))?;
    fs::write(new.join("vmlinux"), vmlinux).on("write", &new)?;
    for (number, module) in kernel.modules.iter().enumerate() {
        let file = new.join("modules").join(format!("{number:02}-{}.ko", module.name));
        fs::write(&file, &module.content).on("write", &file)?;
    }
    // An earlier run may have been killed and have left an incomplete folder. If it cannot be removed, the rename reports that.
    fs::remove_dir_all(folder).ok();
    fs::rename(&new, folder).on("rename to", folder)
}

/// Creates the archive with the modules and this program; recreates it when this program has changed. The archive is
/// uncompressed, because unpacking would take longer than reading.
fn pack(folder: &Path, initramfs: &Path) -> Result<(), LabError> {
    let program = std::env::current_exe().calling(|| "find the executable of xtask".to_owned())?;
    let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if age(initramfs).is_some_and(|made| age(&program).is_some_and(|built| built < made)) {
        return Ok(());
    }
    let modules = folder.join("modules");
    let mut names: Vec<_> = fs::read_dir(&modules).on("list", &modules)?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    let new = tempfile::NamedTempFile::new_in(folder).on("create a file in", folder)?;
    let archive = || -> io::Result<()> {
        let mut archive = Archive::new(BufWriter::new(new.as_file()));
        // The kernel itself creates `/dev/console` (`usr/default_cpio_list`).
        for folder in ["dev", "root", "proc", "modules"] {
            archive.directory(folder)?;
        }
        archive.file("init", 0o755, &fs::read(&program)?)?;
        for path in &names {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("modules/{name}"), 0o644, &fs::read(path)?)?;
        }
        archive.finish()?.flush()
    };
    archive().on("write", new.path())?;
    new.persist(initramfs).map_err(|error| error.error).on("rename to", initramfs)?;
    Ok(())
}
