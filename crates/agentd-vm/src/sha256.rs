//! SHA-256 digests, in hexadecimal.

use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Returns the length and the digest of a file.
///
/// # Errors
/// The error of opening or reading the file.
pub fn of_file(path: &Path) -> io::Result<(u64, String)> {
    let mut hasher = HashWriter(Sha256::new());
    let bytes = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok((bytes, hex(&hasher.0.finalize())))
}

/// Returns `bytes` in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
