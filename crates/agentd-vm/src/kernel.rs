//! Reads a kernel from a Debian package, a bzImage with its installed modules, or an ELF file.

use crate::{
    bzimage,
    error::{AssetError, IoContext},
    modules::{Module, Modules},
    package,
};
use std::{
    cmp::Ordering,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

const ELF: &[u8] = b"\x7fELF";
/// The directories in which a distribution installs kernels, and the modules of each release.
const BOOT: &str = "/boot";
const MODULES: &str = "/lib/modules";
/// The prefix of the version string in an ELF kernel (`init/version.c`).
const BANNER: &[u8] = b"Linux version ";

/// A kernel with its modules.
pub(crate) struct Found {
    /// The ELF file.
    pub elf: Vec<u8>,
    /// The release, or an empty string if the kernel does not contain one.
    pub release: String,
    /// The modules.
    pub modules: Modules,
}

/// Reads the kernel in `file`, or the newest installed kernel.
pub(crate) fn find(file: Option<&Path>) -> Result<Found, AssetError> {
    match file {
        Some(file) => read(file),
        None => read(&installed().ok_or(AssetError::NoKernel)?),
    }
}

/// Returns the newest kernel in `/boot` that has modules.
fn installed() -> Option<PathBuf> {
    let files = fs::read_dir(BOOT).ok()?.flatten().map(|entry| entry.path());
    let releases = files.filter_map(|path| Some(path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned()));
    let release = releases.filter(|release| Path::new(MODULES).join(release).is_dir()).max_by(|a, b| compare_releases(a, b))?;
    Some(Path::new(BOOT).join(format!("vmlinuz-{release}")))
}

/// Compares kernel releases as versions: runs of digits by their value, and a release candidate before its release.
fn compare_releases(a: &str, b: &str) -> Ordering {
    release_parts(a).cmp(&release_parts(b))
}

/// A part of a kernel release, in ascending order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ReleasePart<'a> {
    Candidate,
    End,
    Text(&'a str),
    /// A number without leading zeros. A longer number is larger.
    Number(usize, &'a str),
}

fn release_parts(release: &str) -> Vec<ReleasePart<'_>> {
    let mut parts = Vec::new();
    let mut rest = release;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let length = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (part, after) = rest.split_at(length);
        parts.push(match part {
            number if digits => {
                let number = number.trim_start_matches('0');
                ReleasePart::Number(number.len(), number)
            }
            "-rc" | "~rc" => ReleasePart::Candidate,
            text => ReleasePart::Text(text),
        });
        rest = after;
    }
    parts.push(ReleasePart::End);
    parts
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
        return Err(refuse("neither a Debian package, a bzImage nor an ELF file".to_owned()));
    };
    if !elf.starts_with(ELF) {
        return Err(unreadable(no_elf()));
    }
    let modules = if modules.is_empty() && !release.is_empty() { installed_with(file, &release)? } else { modules };
    Ok(Found { elf, release, modules })
}

/// Returns the modules of a kernel that is not in a package, which may be none. Searches the root whose `/boot` holds the kernel
/// first, then this host.
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

/// A kernel for QEMU, which boots the self-extracting bzImage.
#[derive(Debug)]
pub struct BootKernel {
    /// The release, as `uname -r` prints it.
    pub release: String,
    /// The bzImage.
    pub image: Vec<u8>,
    /// The requested modules that are not built in, each after its dependencies.
    pub modules: Vec<Module>,
}

impl BootKernel {
    /// Reads the kernel of a Debian package, with the modules `needed`, and those of `optional` that the package contains.
    ///
    /// # Errors
    /// [`AssetError::Kernel`] if the file is not a kernel package, and [`AssetError::NoModule`] for a missing module.
    pub fn of_package(file: &Path, needed: &[&str], optional: &[&str]) -> Result<Self, AssetError> {
        let refuse = |reason: &str| AssetError::Kernel { file: file.to_path_buf(), reason: reason.to_owned() };
        let (image, modules) = of_package(file)?;
        let release =
            bzimage::release(&image).ok_or_else(|| refuse("its kernel is not a bzImage with a release in the header"))?;
        let modules = modules.needed(&release, needed, optional)?;
        Ok(Self { release, image, modules })
    }

    /// Extracts the ELF file from the bzImage, for monitors that boot an ELF kernel.
    ///
    /// # Errors
    /// [`io::Error`] if the bzImage is invalid or does not hold an ELF file.
    pub fn elf(&self) -> io::Result<Vec<u8>> {
        let elf = bzimage::kernel(&self.image)?;
        if elf.starts_with(ELF) { Ok(elf) } else { Err(no_elf()) }
    }
}

fn no_elf() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the payload of the bzImage is not an ELF file")
}

/// Returns the bzImage of a package, and the modules.
fn of_package(file: &Path) -> Result<(Vec<u8>, Modules), AssetError> {
    let mut image = None;
    let mut modules = Modules::default();
    let wants = |path: &Path| path.starts_with("boot") || Modules::is_source(path);
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
        reason:
            "no boot/vmlinuz in this package; it may be a metapackage: use the package that it depends on (apt-cache depends)"
                .to_owned(),
    };
    Ok((image.ok_or_else(missing)?, modules))
}

fn banner(image: &[u8]) -> Option<String> {
    let at = image.windows(BANNER.len()).position(|window| window == BANNER)?;
    let text = image[at + BANNER.len()..].iter().take(256).take_while(|byte| !b" \0%".contains(byte)).copied().collect();
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_releases_sort_by_version() {
        let ascending = [
            "5.10.0-30-amd64",
            "6.1.0-9-amd64",
            "6.1.0-21-amd64",
            "6.9.12-amd64",
            "6.10-rc2-amd64",
            "6.10-rc10-amd64",
            "6.10",
            "6.10-amd64",
            "6.10.3-amd64",
            "6.10.11-amd64",
            "10.0.0-amd64",
        ];
        for (place, newer) in ascending.iter().enumerate() {
            for older in &ascending[..place] {
                assert_eq!(compare_releases(older, newer), Ordering::Less, "{older} and {newer}");
            }
            assert_eq!(compare_releases(newer, newer), Ordering::Equal);
        }
    }
}
