//! Size limits of one archive. An archive is untrusted input, so every dimension in which it can grow is limited.

/// The size limits of one archive, such as the layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Size of the uncompressed archive in bytes, headers included; stops a decompression bomb.
    pub total: u64,
    /// Size of one file, in bytes.
    pub file: u64,
    /// Number of entries in the archive.
    pub entries: u64,
    /// Length of one path, in bytes.
    pub path: usize,
    /// Number of components of one path.
    pub depth: usize,
    /// Size of one extension header (`pax`, long names), in bytes. The header is held in memory.
    pub extension: u64,
    /// Total length of the names of all directories, in bytes. An unpacking caller keeps these names in memory until the end.
    pub directories: usize,
    /// Memory for the names of files and links that may describe an image, in bytes; applies to an archive that is an import
    /// source.
    pub names: usize,
}

impl Default for Bounds {
    /// Limits far above published images; the largest images have about 20 GB and half a million files.
    fn default() -> Self {
        Self {
            total: 64 << 30,
            // The largest size that fits a ustar header. A larger file needs a `pax` size and a false one in the header, which
            // two readers interpret differently.
            file: (8 << 30) - 1,
            entries: 4_000_000,
            path: 4095,
            // Removing a tree keeps one descriptor open per level.
            depth: 256,
            extension: 1 << 20,
            directories: 256 << 20,
            names: 64 << 20,
        }
    }
}

/// The limit that an archive exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// [`Bounds::total`].
    Total,
    /// [`Bounds::file`].
    File,
    /// [`Bounds::entries`].
    Entries,
    /// [`Bounds::path`].
    Path,
    /// [`Bounds::depth`].
    Depth,
    /// [`Bounds::extension`].
    Extension,
    /// [`Bounds::directories`].
    Directories,
    /// [`Bounds::names`].
    Names,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Total => "bytes in total",
            Self::File => "bytes in one file",
            Self::Entries => "entries",
            Self::Path => "bytes in a path",
            Self::Depth => "components in a path",
            Self::Extension => "bytes in an extended header",
            Self::Directories => "bytes of directory names",
            Self::Names => "bytes of file names",
        })
    }
}
