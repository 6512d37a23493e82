//! A Debian package (`deb(5)`): an `ar` archive in which a tar archive holds the files.

use crate::{
    error::{AssetError, Context},
    payload,
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;
/// No file that is asked for is bigger.
const MOST_BYTES: u64 = 256 << 20;

/// Whether a file that begins so is an `ar` archive.
pub(crate) fn is(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// The content of one file of a Debian package; its path has no leading `/`.
///
/// # Errors
/// [`AssetError::Io`], also when the package has no such file.
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
    .and_then(|()| found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("it has no {}", wanted.display()))))
    .context(|| format!("read {}", package.display()))
}

/// The first package that one depends on, in what `apt-cache show` says of it: what a package without contents stands for.
pub fn first_dependency(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([',', '|', ' ', '(']).next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Calls `with` for each regular file whose path `wants`, a path without a leading `/` or `./`.
pub(crate) fn files(
    package: &Path,
    wants: impl Fn(&Path) -> bool,
    mut with: impl FnMut(PathBuf, Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = File::open(package)?;
    let length = find_data(&mut file)?;
    let mut archive = tar::Archive::new(payload::reader(file.take(length))?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?;
        let path = path.strip_prefix(".").unwrap_or(&path).to_path_buf();
        if !entry.header().entry_type().is_file() || !wants(&path) {
            continue;
        }
        if entry.size() > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is too large", path.display())));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        with(path, content)?;
    }
    Ok(())
}

/// Seeks to the archive of the package's files; gives its length.
fn find_data(file: &mut File) -> io::Result<u64> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(bad("it is no Debian package"));
    }
    loop {
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| bad("no data.tar is in it"))?;
        let text = |from: usize, to: usize| std::str::from_utf8(&header[from..to]).unwrap_or_default().trim_end();
        let length: u64 = text(48, 58).parse().map_err(|_| bad("a member has no length"))?;
        if text(0, 16).starts_with("data.tar") {
            return Ok(length);
        }
        let next = i64::try_from(length.next_multiple_of(2)).map_err(|_| bad("a member is too long"))?;
        file.seek(SeekFrom::Current(next))?;
    }
}

#[cfg(test)]
mod tests {
    use super::first_dependency;

    #[test]
    fn a_package_without_contents_stands_for_what_it_depends_on() {
        let shown = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), linux-base\n";
        for (shown, name) in [(shown, "linux-image-6.1.0-56-cloud-amd64"), ("Depends: b | c\n", "b")] {
            assert_eq!(first_dependency(shown).as_deref(), Some(name));
        }
        assert_eq!(first_dependency("Package: a\nPre-Depends: b\n"), None);
    }
}
