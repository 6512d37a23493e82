//! Firecracker's own programs, which come from its releases: a file is installed when its digest is known here.

use crate::{
    assets::hex,
    error::{AssetError, Context},
    payload,
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The version that agentd is tested with.
pub const FIRECRACKER_VERSION: &str = "1.12.1";

/// SHA-256 of that version's programs for x86-64, and what they are called.
const KNOWN: [(&str, &str); 2] = [
    ("firecracker", "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"),
    ("jailer", "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"),
];
/// No program of a release is bigger.
const MOST_BYTES: u64 = 64 << 20;

/// Installs in the directory `into` what `file` holds of that version: a program, or the archive of a release (`.tgz`). Gives what was
/// installed.
///
/// # Errors
/// [`AssetError::NotARelease`] when it holds nothing that is known.
pub fn install(file: &Path, into: &Path) -> Result<Vec<PathBuf>, AssetError> {
    let mut seen = Vec::new();
    let mut installed = Vec::new();
    let contents = contents(file).context(|| format!("read {}", file.display()))?;
    for content in contents {
        let digest = hex(&Sha256::digest(&content));
        if let Some((name, _)) = KNOWN.iter().find(|(_, known)| *known == digest) {
            let path = into.join(name);
            place(&content, into, &path).context(|| format!("install {}", path.display()))?;
            installed.push(path);
        }
        seen.push(digest);
    }
    if installed.is_empty() {
        return Err(AssetError::NotARelease { file: file.to_path_buf(), found: seen.join(", ") });
    }
    Ok(installed)
}

/// The file itself, or the programs in an archive.
fn contents(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let bounded = |source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let mut head = [0; 2];
    let read = File::open(path)?.read(&mut head)?;
    if head[..read] != [0x1f, 0x8b] {
        return Ok(vec![bounded(&mut File::open(path)?)?]);
    }
    let mut archive = tar::Archive::new(payload::reader(File::open(path)?)?);
    let mut found = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let wanted = KNOWN.iter().any(|(known, _)| name.starts_with(known));
        if wanted && entry.header().entry_type().is_file() && !name.ends_with(".debug") {
            found.push(bounded(&mut entry)?);
        }
    }
    Ok(found)
}

fn place(content: &[u8], into: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    let mut fresh = tempfile::NamedTempFile::new_in(into)?;
    fresh.write_all(content)?;
    fresh.as_file().set_permissions(Permissions::from_mode(0o755))?;
    fresh.as_file().sync_all()?;
    fresh.persist(path).map(drop).map_err(|error| error.error)
}
