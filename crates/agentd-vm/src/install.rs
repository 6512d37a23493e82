//! Firecracker's own programs, which come from its releases: a file is installed when its digest is known here.

use crate::{
    assets::hex,
    error::{AssetError, Context},
    payload,
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, Read, Write},
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

/// The file itself, or the programs in an archive. It is read once, to its end, for it may be a pipe.
fn contents(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let bounded = |source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let mut file = BufReader::new(File::open(path)?);
    if !file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        return Ok(vec![bounded(&mut file)?]);
    }
    let mut archive = tar::Archive::new(payload::reader(file)?);
    let mut found = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let wanted = KNOWN.iter().any(|(known, _)| name.starts_with(known));
        if wanted && entry.header().entry_type().is_file() && !name.ends_with(".debug") {
            found.push(bounded(&mut entry)?);
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    #[test]
    fn an_archive_may_come_through_a_pipe_and_is_read_to_its_end() {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in
            [("r/firecracker-v1", "one"), ("r/jailer-v1", "two"), ("r/NOTICE", "no"), ("r/jailer-v1.debug", "no")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        // With more after its end than a pipe holds: a writer that is not heard out fails.
        let mut compressed = archive.into_inner().unwrap();
        compressed.write_all(&vec![0; 1 << 20]).unwrap();
        let mut bytes = compressed.finish().unwrap();
        let mut rest = GzEncoder::new(Vec::new(), Compression::none());
        rest.write_all(&vec![0; 1 << 20]).unwrap();
        bytes.extend_from_slice(&rest.finish().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::write(pipe, bytes))
        };
        assert_eq!(contents(&pipe).unwrap(), [b"one".to_vec(), b"two".to_vec()]);
        writer.join().unwrap().unwrap();
    }
}
