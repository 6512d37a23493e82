//! The limits of requests and responses, in bytes unless stated otherwise. A request may lower a limit that has a default, and
//! raise it up to the maximum.

/// Maximum length of the JSON of a request or a response.
pub const MAX_HEAD: u32 = 16 << 20;

/// Maximum length of the content after a request or a response.
pub const MAX_CONTENT: u64 = 64 << 20;

/// Maximum length of a path.
pub const MAX_PATH: usize = 4095;

/// A limit that a request may change.
#[derive(Debug, Clone, Copy)]
pub struct Adjustable {
    /// The limit of a request that names none.
    pub default: u64,
    /// The largest limit that a request may name.
    pub max: u64,
}

impl Adjustable {
    /// Returns the limit that applies.
    pub fn of(self, requested: Option<u64>) -> u64 {
        requested.unwrap_or(self.default).min(self.max)
    }
}

/// Content of a read, and of the body of a response.
pub const READ: Adjustable = Adjustable { default: 1 << 20, max: MAX_CONTENT };

/// Size of a file to edit.
pub const EDIT: u64 = 16 << 20;

/// Number of edits of a request.
pub const EDITS: usize = 1000;

/// Length of a diff.
pub const DIFF: usize = 1 << 20;

/// Number of levels of directories in a listing.
pub const DEPTH: u32 = 64;

/// Number of entries of a listing, and of changes of a watch.
pub const ENTRIES: Adjustable = Adjustable { default: 1000, max: 50_000 };

/// Number of lines that match.
pub const MATCHES: Adjustable = Adjustable { default: 1000, max: 50_000 };

/// Bytes of all lines that a search returns.
pub const FOUND: Adjustable = Adjustable { default: 256 << 10, max: 4 << 20 };

/// Bytes of one line that a search returns.
pub const LINE: usize = 2000;

/// Number of lines of context.
pub const CONTEXT: u32 = 20;

/// Number of patterns of a filter.
pub const GLOBS: usize = 100;

/// Length of a regular expression, of a pattern, and of an ignore file.
pub const PATTERN: usize = 64 << 10;

/// Time of a listing, a search, a statement, a watch or a fetch, in milliseconds.
pub const TIME_MS: Adjustable = Adjustable { default: 10_000, max: 600_000 };

/// Number of redirects.
pub const REDIRECTS: Adjustable = Adjustable { default: 5, max: 20 };

/// Time of a clone, in milliseconds.
pub const CLONE_MS: Adjustable = Adjustable { default: 300_000, max: 3_600_000 };

/// Number of entries of an archive, listed or not.
pub const ARCHIVE_ENTRIES: u64 = 300_000;

/// Bytes of all files of an archive.
pub const ARCHIVE_BYTES: Adjustable = Adjustable { default: 1 << 30, max: 16 << 30 };

/// The number of plain bytes that one compressed byte may become, once an archive has more than [`RATIO_FREE`] plain bytes.
pub const RATIO: u64 = 1000;

/// The number of plain bytes up to which [`RATIO`] does not apply.
pub const RATIO_FREE: u64 = 64 << 20;

/// Number of rows that a statement returns.
pub const ROWS: Adjustable = Adjustable { default: 1000, max: 50_000 };

/// Bytes of all values that a statement returns.
pub const VALUES: Adjustable = Adjustable { default: 1 << 20, max: 4 << 20 };

/// Length of a statement.
pub const SQL: usize = 1 << 20;

/// Memory of SQLite.
pub const SQLITE_HEAP: u64 = 256 << 20;
