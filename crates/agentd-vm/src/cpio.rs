//! Writes cpio archives in the "newc" format. An initramfs consists of any number of such archives, concatenated
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

/// The file types of a directory and of a regular file (`inode(7)`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// A writer of one archive. The output is a valid archive only after [`Archive::finish`].
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive in `out`, whose position must be a multiple of 4 bytes.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds a directory with mode 0755.
    ///
    /// # Errors
    /// Errors of writing to the output.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// Adds a regular file with the permission bits `mode`.
    ///
    /// # Errors
    /// Errors of writing to the output, and [`io::ErrorKind::InvalidInput`] for a file of 4 GiB or more.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | (mode & 0o7777), content)
    }

    /// Writes the trailer, padded to a multiple of 4 bytes, and returns the output.
    ///
    /// # Errors
    /// Errors of writing to the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let inode = self.entries;
        let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let named = name.len() + 1;
        write!(self.out, "070701{inode:08X}{mode:08X}{:08X}{:08X}{:08X}{:08X}{size:08X}", 0, 0, 1, 0)?;
        write!(self.out, "{:08X}{:08X}{:08X}{:08X}{named:08X}{:08X}{name}\0", 0, 0, 0, 0, 0)?;
        // A newc header has 110 bytes.
        self.pad(110 + named)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn archive_entries_have_newc_headers_and_padding() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("modules").unwrap();
        archive.file("modules/a", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let second = 110 + 8 + 2;
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ED");
        assert_eq!(&bytes[second..second + 6], b"070701");
        assert_eq!(&bytes[second + 54..second + 62], b"00000005");
        assert_eq!(&bytes[second + 110..second + 119], b"modules/a");
        assert_eq!(&bytes[second + 120..second + 125], b"hello");
    }
}
