//! What a machine is started from: kernel, initramfs, root file system, and Gondolin's manifest of them.

use crate::{
    daemons::DAEMONS,
    downloads::Downloads,
    error::{Context, SetupError},
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

const INIT: &str = include_str!("../guest/init.sh");
const FIRST: &str = include_str!("../guest/initramfs.sh");
const MANIFEST: &str = include_str!("../npm/manifest.mjs");

/// What a guest needs of its kernel, built in or as a module: the devices that Gondolin gives it, and what shows it the host's files.
const NEEDED: [&str; 5] = ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "fuse"];
/// What it takes where it is there.
const WELCOME: [&str; 3] = ["virtio_rng", "overlay", "loop"];

/// Where Debian's package has it.
const BUSYBOX: &str = "bin/busybox";

/// Free room in the root file system. What a machine writes to its copy lies in the host's memory, so that this is a part of its limit.
const SPARE_BYTES: u64 = 2 << 30;

/// What the guest, whose root is read-only, mounts something on. Gondolin shows the host's files at `data`, of which its own are bound at
/// `etc/gondolin`, and what agentd grants at `grants`.
const MOUNTED_ON: [&str; 9] = ["dev", "proc", "sys", "run", "tmp", "root", "data", "etc/gondolin", "grants"];

/// The parts it is made with.
pub(crate) struct Parts<'a> {
    pub node: &'a Path,
    pub package: &'a Path,
    pub daemons: &'a Path,
    pub root: &'a Root,
}

/// Makes the assets; the part's directory, and the kernel's release.
pub(crate) fn guest(home: &Path, downloads: &Downloads, parts: &Parts<'_>) -> Result<PathBuf, SetupError> {
    let (kernel, busybox) = (downloads.kernel()?, downloads.package("busybox-static")?);
    let daemons = parts.daemons.file_name().unwrap_or_default().to_string_lossy();
    let (spare, mounted_on) = (SPARE_BYTES.to_string(), MOUNTED_ON.join(" "));
    let ingredients =
        [INIT, FIRST, MANIFEST, &spare, &mounted_on, &digest(&kernel)?, &digest(&busybox)?, &daemons, &parts.root.identity];
    part(home, "guest", &ingredients, |dir| {
        let kernel = BootKernel::of_package(&kernel, &NEEDED, &WELCOME)?;
        let busybox = agentd_vm::file_of_package(&busybox, Path::new(BUSYBOX))?;
        fs::write(dir.join(KERNEL), &kernel.image).context(|| "write the kernel".to_owned())?;
        initramfs(&dir.join(INITRAMFS), &kernel, &busybox).context(|| "write the initramfs".to_owned())?;
        let scratch = tempfile::tempdir_in(home).context(|| "make a directory".to_owned())?;
        let own = scratch.path().join("own");
        own_layer(&own, parts, &busybox).context(|| "write the guest's own files".to_owned())?;
        agentd_vm::make_root(&[parts.root.path.clone(), own], SPARE_BYTES, &dir.join(ROOT))?;
        let manifest = scratch.path().join("manifest.mjs");
        fs::write(&manifest, MANIFEST).context(|| format!("write {}", manifest.display()))?;
        let mut node = Command::new(parts.node.join(NODE));
        tool::run(node.arg(&manifest).arg(parts.package.join(GONDOLIN)).arg(dir), "").map(drop)
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
        // In the order in which they are loaded.
        archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content)?;
    }
    archive.finish()?.flush()
}

/// What is laid over the root's tree.
fn own_layer(own: &Path, parts: &Parts<'_>, busybox: &[u8]) -> io::Result<()> {
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
