//! Reads a Debian package (`deb(5)`): an `ar` archive that contains a tar archive with the files.

use crate::{
    error::{AssetError, IoContext},
    payload,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};
use tar::EntryType;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;
/// The maximum size of a file that is read, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// The maximum total size of the files that are read, in bytes, because callers keep all of them in memory. Debian's kernel
/// package has 450 MiB of modules.
const MAX_TOTAL: u64 = 1 << 30;
/// The maximum length of a file name, in bytes (`PATH_MAX`).
const MAX_NAME: u64 = 4096;

/// Returns whether a file with these first bytes is an `ar` archive.
pub(crate) fn is(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// Returns the content of one file of a Debian package. The path has no leading `/`.
///
/// # Errors
/// [`AssetError::Io`] if the package cannot be read or has no such file.
pub fn file_of_package(package: &Path, wanted: &Path) -> Result<Vec<u8>, AssetError> {
    let mut found = None;
    files(
        package,
        |path| path == wanted,
        |_, content| {
            found = Some(content);
            Ok(())
        },
    )
    .and_then(|()| {
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the package has no {}", wanted.display())))
    })
    .context(|| format!("read {}", package.display()))
}

/// Returns the first dependency of a package, from the output of `apt-cache show`. For a metapackage, this is the package with
/// the contents.
pub fn first_dependency(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([',', '|', ' ', '(']).next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Calls `with` for each regular file, if `wants` returns true for its path. Paths have no leading `/` or `./`.
pub(crate) fn files(
    package: &Path,
    wants: impl Fn(&Path) -> bool,
    with: impl FnMut(PathBuf, Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    files_in(File::open(package)?, wants, with)
}

/// Like [`files`], for an open package.
pub(crate) fn files_in(
    mut package: impl Read + Seek,
    wants: impl Fn(&Path) -> bool,
    mut with: impl FnMut(PathBuf, Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let length = find_data(&mut package)?;
    let mut archive = tar::Archive::new(payload::reader(package.take(length))?);
    let mut long_name = None;
    let mut total = 0_u64;
    // Iterate over raw entries: otherwise the `tar` crate reads a long name of any length into memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                long_name = Some(name(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => continue,
            // deb(5): "Unrecognized tar typeflags are considered an error."
            EntryType::XHeader | EntryType::XGlobalHeader => {
                return Err(invalid_data("data.tar has a pax header, which deb(5) does not allow"));
            }
            _ => {}
        }
        let path = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = Path::new(OsStr::from_bytes(&path));
        let path = path.strip_prefix(".").unwrap_or(path).to_path_buf();
        if !entry.header().entry_type().is_file() || !wants(&path) {
            continue;
        }
        total = total.saturating_add(entry.size());
        if entry.size() > MAX_BYTES || total > MAX_TOTAL {
            return Err(invalid_data(&format!("{} is too large", path.display())));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        with(path, content)?;
    }
    Ok(())
}

/// Reads the content of a long-name entry: the name of the next entry.
fn name(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let mut name = Vec::new();
    entry.take(MAX_NAME + 1).read_to_end(&mut name)?;
    if name.len() as u64 > MAX_NAME {
        return Err(invalid_data("a file name is too long"));
    }
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    Ok(name)
}

fn invalid_data(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Seeks to the tar archive with the package's files and returns its length.
fn find_data(file: &mut (impl Read + Seek)) -> io::Result<u64> {
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(invalid_data("not a Debian package"));
    }
    loop {
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| invalid_data("no data.tar in the package"))?;
        let text = |from: usize, to: usize| std::str::from_utf8(&header[from..to]).unwrap_or_default().trim_end();
        let length: u64 = text(48, 58).parse().map_err(|_| invalid_data("an archive member has no length"))?;
        if text(0, 16).starts_with("data.tar") {
            return Ok(length);
        }
        let next = i64::try_from(length.next_multiple_of(2)).map_err(|_| invalid_data("an archive member is too long"))?;
        file.seek(SeekFrom::Current(next))?;
    }
}

#[cfg(test)]
mod tests {
    use super::first_dependency;

    #[test]
    fn first_dependency_of_metapackage_is_found() {
        let shown = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), linux-base\n";
        for (shown, name) in [(shown, "linux-image-6.1.0-56-cloud-amd64"), ("Depends: b | c\n", "b")] {
            assert_eq!(first_dependency(shown).as_deref(), Some(name));
        }
        assert_eq!(first_dependency("Package: a\nPre-Depends: b\n"), None);
    }
}
