//! Builds the assets of a machine: kernel, initramfs, root file system, and Gondolin's manifest of them.

use super::{
    daemons::DAEMONS,
    downloads::Downloads,
    error::{IoContext, SetupError},
    installation::{GONDOLIN, INITRAMFS, KERNEL, ROOT},
    part::{digest, part},
    programs::NODE,
    root::Root,
    tool,
};
use agentd_vm::{BootKernel, cpio::Archive};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const INIT: &str = include_str!("../../guest/init.sh");
const FIRST: &str = include_str!("../../guest/initramfs.sh");
const MANIFEST: &str = include_str!("../../npm/manifest.mjs");

/// Modules that a guest needs, built in or loadable: for the devices that Gondolin provides, and for sharing the host's files.
const NEEDED: [&str; 5] = ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "fuse"];
/// Modules that are loaded if the kernel has them.
const OPTIONAL: [&str; 3] = ["virtio_rng", "overlay", "loop"];

/// The path of the program in Debian's package.
const BUSYBOX: &str = "bin/busybox";

/// The free space in the root file system, in bytes. The changes of a machine are stored in the host's memory, so this size is
/// part of the machine's memory limit.
const SPARE_BYTES: u64 = 2 << 30;

/// The mount points in the guest, whose root is read-only. Gondolin shares the host's files at `data`. From there, its own files
/// are bind-mounted at `etc/gondolin`, and the grants at `grants`.
const MOUNTED_ON: [&str; 9] = ["dev", "proc", "sys", "run", "tmp", "root", "data", "etc/gondolin", "grants"];

/// The other parts of the installation from which a guest is built.
pub(crate) struct GuestParts<'a> {
    pub node: &'a Path,
    pub package: &'a Path,
    pub daemons: &'a Path,
    pub root: &'a Root,
}

/// Builds the assets and returns the directory of the part.
pub(crate) fn guest(home: &Path, downloads: &Downloads, parts: &GuestParts<'_>) -> Result<PathBuf, SetupError> {
    let (kernel, busybox) = (downloads.kernel()?, downloads.package("busybox-static")?);
    let daemons = parts.daemons.file_name().unwrap_or_default().to_string_lossy();
    let (spare, mounted_on) = (SPARE_BYTES.to_string(), MOUNTED_ON.join(" "));
    let inputs =
        [INIT, FIRST, MANIFEST, &spare, &mounted_on, &digest(&kernel)?, &digest(&busybox)?, &daemons, &parts.root.identity];
    part(home, "guest", &inputs, |dir| {
        let kernel = BootKernel::of_package(&kernel, &NEEDED, &OPTIONAL)?;
        let busybox = agentd_vm::file_of_package(&busybox, Path::new(BUSYBOX))?;
        fs::write(dir.join(KERNEL), &kernel.image).context(|| "write the kernel".to_owned())?;
        initramfs(&dir.join(INITRAMFS), &kernel, &busybox).context(|| "write the initramfs".to_owned())?;
        let scratch = tempfile::tempdir_in(home).context(|| "create a temporary directory".to_owned())?;
        let own = scratch.path().join("own");
        own_layer(&own, parts, &busybox).context(|| "write the layer of files for the guest".to_owned())?;
        agentd_vm::make_root(&[parts.root.path.clone(), own], SPARE_BYTES, &dir.join(ROOT))?;
        let manifest = scratch.path().join("manifest.mjs");
        fs::write(&manifest, MANIFEST).context(|| format!("write {}", manifest.display()))?;
        let mut node = Command::new(parts.node.join(NODE));
        tool::run(node.arg(&manifest).arg(parts.package.join(GONDOLIN)).arg(dir), "run `agentd gondolin setup` again").map(drop)
    })
}

fn initramfs(path: &Path, kernel: &BootKernel, busybox: &[u8]) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    for directory in ["bin", "dev", "modules", "root", "sys"] {
        archive.directory(directory)?;
    }
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.file("init", 0o755, FIRST.as_bytes())?;
    for (number, module) in kernel.modules.iter().enumerate() {
        // The number in the name sets the load order.
        archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content)?;
    }
    archive.finish()?.flush()
}

/// Creates the layer above the root's tree: init, busybox, the daemons and the mount points.
fn own_layer(own: &Path, parts: &GuestParts<'_>, busybox: &[u8]) -> io::Result<()> {
    let place = |path: &str, content: &[u8]| -> io::Result<()> {
        let path = own.join(path);
        fs::create_dir_all(path.parent().unwrap_or(own))?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    };
    place("init", INIT.as_bytes())?;
    place("usr/lib/gondolin/busybox", busybox)?;
    for daemon in DAEMONS {
        place(&format!("usr/bin/{daemon}"), &fs::read(parts.daemons.join("bin").join(daemon))?)?;
    }
    for directory in MOUNTED_ON {
        fs::create_dir_all(own.join(directory))?;
    }
    fs::set_permissions(own.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::set_permissions(own.join("root"), fs::Permissions::from_mode(0o700))
}
