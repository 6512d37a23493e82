//! How much one layer may be. An image is somebody else's input: each dimension in which it can grow has an end.

/// The most that one layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the uncompressed archive, headers included: what a decompression bomb grows.
    pub total: u64,
    /// Bytes of one file.
    pub file: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of one path.
    pub path: usize,
    /// Components of one path.
    pub depth: usize,
    /// Bytes of one header that extends the next one (`pax`, long names): it is held in memory.
    pub extension: u64,
    /// Bytes of the names of all directories: they are held in memory until the end.
    pub directories: usize,
    /// Bytes that are held in memory for the names of the files and links of an archive that may describe an image.
    pub names: usize,
}

impl Default for Bounds {
    /// Far above what published images hold (the largest are some 20 GB and half a million files).
    fn default() -> Self {
        Self {
            total: 64 << 30,
            // What fits a ustar header. A bigger file needs a `pax` size beside a false one, which two readers read differently.
            file: (8 << 30) - 1,
            entries: 4_000_000,
            path: 4095,
            // A descriptor is open for each level while a tree is removed.
            depth: 256,
            extension: 1 << 20,
            directories: 256 << 20,
            names: 64 << 20,
        }
    }
}

/// The dimension in which a layer was too big.
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
            Self::Total => "bytes in all",
            Self::File => "bytes in one file",
            Self::Entries => "entries",
            Self::Path => "bytes in a path",
            Self::Depth => "components in a path",
            Self::Extension => "bytes in an extended header",
            Self::Directories => "bytes in names of directories",
            Self::Names => "bytes in names of an image's files",
        })
    }
}
