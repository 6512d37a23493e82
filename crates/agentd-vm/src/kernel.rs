//! A kernel in whatever it comes: a Debian package, a bzImage with its modules installed beside it, or an ELF file.

use crate::{
    bzimage,
    error::{AssetError, Context},
    modules::{Module, Modules},
    package,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

const ELF: &[u8] = b"\x7fELF";
/// Where a distribution installs kernels, and the modules of each below its release.
const BOOT: &str = "/boot";
const MODULES: &str = "/lib/modules";
/// What an ELF kernel says of itself (`init/version.c`).
const BANNER: &[u8] = b"Linux version ";

/// A kernel to be started.
pub(crate) struct Found {
    /// The ELF file.
    pub elf: Vec<u8>,
    /// Its release, where it says it.
    pub release: String,
    /// Its modules.
    pub modules: Modules,
}

/// The kernel in `file`, or the newest that is installed here.
pub(crate) fn find(file: Option<&Path>) -> Result<Found, AssetError> {
    match file {
        Some(file) => read(file),
        None => read(&installed().ok_or(AssetError::NoKernel)?),
    }
}

/// The last in `/boot` by name that has modules.
fn installed() -> Option<PathBuf> {
    let files = fs::read_dir(BOOT).ok()?.flatten().map(|entry| entry.path());
    let with_modules = files.filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix("vmlinuz-")).is_some_and(|release| Path::new(MODULES).join(release).is_dir())
    });
    with_modules.max()
}

fn read(file: &Path) -> Result<Found, AssetError> {
    let refuse = |reason: String| AssetError::Kernel { file: file.to_path_buf(), reason };
    let unreadable = |source: io::Error| refuse(source.to_string());
    let mut head = Vec::new();
    File::open(file).context(|| format!("open {}", file.display()))?.take(8).read_to_end(&mut head).map_err(unreadable)?;
    let (image, modules) = if package::is(&head) {
        of_package(file)?
    } else {
        (fs::read(file).context(|| format!("read {}", file.display()))?, Modules::default())
    };
    let (elf, release) = if bzimage::is(&image) {
        (bzimage::kernel(&image).map_err(unreadable)?, bzimage::release(&image).unwrap_or_default())
    } else if image.starts_with(ELF) {
        let release = banner(&image).unwrap_or_default();
        (image, release)
    } else {
        return Err(refuse("it is neither a Debian package, a bzImage nor an ELF file".to_owned()));
    };
    if !elf.starts_with(ELF) {
        return Err(unreadable(no_elf()));
    }
    let modules = if modules.is_empty() && !release.is_empty() { installed_with(file, &release)? } else { modules };
    Ok(Found { elf, release, modules })
}

/// The modules of a kernel that is no package: below the root whose `/boot` it lies in, or installed here. There may be none.
fn installed_with(file: &Path, release: &str) -> Result<Modules, AssetError> {
    let below = file.canonicalize().ok().and_then(|file| Some(file.parent()?.parent()?.join("lib/modules")));
    for place in below.into_iter().chain([PathBuf::from(MODULES)]) {
        let dir = place.join(release);
        let modules = Modules::installed(&dir).context(|| format!("read {}", dir.display()))?;
        if !modules.is_empty() {
            return Ok(modules);
        }
    }
    Ok(Modules::default())
}

/// A kernel as QEMU starts it, which decompresses itself.
#[derive(Debug)]
pub struct BootKernel {
    /// What it says of itself.
    pub release: String,
    /// The bzImage.
    pub image: Vec<u8>,
    /// What was asked for and is not built in, each module after those it depends on.
    pub modules: Vec<Module>,
}

impl BootKernel {
    /// That of a Debian package, with the modules `needed`, and those of `welcome` that it has.
    ///
    /// # Errors
    /// [`AssetError::Kernel`] for what is no such package, [`AssetError::NoModule`] for what is missing.
    pub fn of_package(file: &Path, needed: &[&str], welcome: &[&str]) -> Result<Self, AssetError> {
        let refuse = |reason: &str| AssetError::Kernel { file: file.to_path_buf(), reason: reason.to_owned() };
        let (image, modules) = of_package(file)?;
        let release = bzimage::release(&image).ok_or_else(|| refuse("its kernel is no bzImage that says its release"))?;
        let modules = modules.needed(&release, needed, welcome)?;
        Ok(Self { release, image, modules })
    }

    /// The ELF file that the bzImage carries, for what starts that.
    ///
    /// # Errors
    /// What is wrong with the bzImage.
    pub fn elf(&self) -> io::Result<Vec<u8>> {
        let elf = bzimage::kernel(&self.image)?;
        if elf.starts_with(ELF) { Ok(elf) } else { Err(no_elf()) }
    }
}

fn no_elf() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it carries is no ELF file")
}

/// The bzImage of a package, and its modules.
fn of_package(file: &Path) -> Result<(Vec<u8>, Modules), AssetError> {
    let mut image = None;
    let mut modules = Modules::default();
    let wants = |path: &Path| path.starts_with("boot") || Modules::are_in(path);
    package::files(file, wants, |path, content| {
        if path.starts_with("boot") {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")) {
                image = Some(content);
            }
            return Ok(());
        }
        modules.take(&path, content)
    })
    .map_err(|source| AssetError::Kernel { file: file.to_path_buf(), reason: source.to_string() })?;
    let missing = || AssetError::Kernel {
        file: file.to_path_buf(),
        reason: "no boot/vmlinuz is in this package; it may be one that only depends on the kernel's own (apt-cache depends)"
            .to_owned(),
    };
    Ok((image.ok_or_else(missing)?, modules))
}

fn banner(image: &[u8]) -> Option<String> {
    let at = image.windows(BANNER.len()).position(|window| window == BANNER)?;
    let text = image[at + BANNER.len()..].iter().take(256).take_while(|byte| !b" \0%".contains(byte)).copied().collect();
    String::from_utf8(text).ok()
}
