//! Installs Firecracker's own programs from a release. Only files with a known digest are installed.

use crate::{
    error::{AssetError, IoContext},
    payload,
    sha256::hex,
};
use agentd_disk::Scratch;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The version of Firecracker that agentd is tested with.
pub const FIRECRACKER_VERSION: &str = "1.12.1";

/// The names and the SHA-256 digests of the x86-64 programs of [`FIRECRACKER_VERSION`].
const KNOWN: [(&str, &str); 2] = [
    ("firecracker", "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"),
    ("jailer", "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"),
];
/// The maximum size of a program in bytes. All programs of a release are smaller.
const MAX_BYTES: u64 = 64 << 20;

/// Installs the known programs in `file` into the directory `into`, and returns the paths of the installed files. `file` is a
/// program, or the archive of a release (`.tgz`).
///
/// # Errors
/// [`AssetError::NotARelease`] if `file` holds no known program, and [`AssetError::Io`].
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

/// Returns the contents of the file itself, or of the programs in an archive. Reads the file once and to its end, because it may
/// be a pipe.
fn contents(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let bounded = |source: &mut dyn Read| {
        let mut bytes = Vec::new();
        source.take(MAX_BYTES).read_to_end(&mut bytes)?;
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
    let scratch = Scratch::make(into, ".agentd-install").map_err(io::Error::other)?;
    let fresh = scratch.path().join("program");
    let mut file = File::create_new(&fresh)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    #[test]
    fn archive_from_pipe_is_read_to_its_end() {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, content) in
            [("r/firecracker-v1", "one"), ("r/jailer-v1", "two"), ("r/NOTICE", "no"), ("r/jailer-v1.debug", "no")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        // Append more data than a pipe buffers: the writer fails if the reader stops at the end of the archive.
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
