//! Files of `/proc` and `/sys`, which the kernel writes while they are read.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// The initial size of the buffer, which suffices for most files. Such a file reports no size, so a buffer that grows from
/// nothing takes ten reads.
const INITIAL_BUFFER: usize = 4096;

/// Reads a file of `/proc` or `/sys`: usually in one read, and a second one that returns the end.
///
/// # Errors
/// The error of opening or reading the file; `InvalidData` for content that is not UTF-8.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut content = String::with_capacity(INITIAL_BUFFER);
    // `take` hides the file's size, which the standard library would query first.
    File::open(path)?.take(u64::MAX).read_to_string(&mut content)?;
    Ok(content)
}

/// Reads a file like [`read`], without requiring UTF-8.
///
/// # Errors
/// The error of opening or reading the file.
pub fn read_bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(INITIAL_BUFFER);
    File::open(path)?.take(u64::MAX).read_to_end(&mut content)?;
    Ok(content)
}
