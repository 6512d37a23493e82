//! Entry points of the fuzz targets for copies of grants; see [`crate::fuzz`].

use super::{
    entry::{self, Content, DecodedEntry},
    receive::Receiver,
    scan::SyncRoot,
    tree::RelativeName,
};
use rustix::fs::{Mode, OFlags};
use std::{path::Path, sync::Arc};

/// The maximum number of bytes of files that [`receive`] accepts.
const MAX_BYTES: u64 = 64 << 10;

/// Decodes entries and encodes each again. The content of files is not skipped: the next entry is expected directly after each
/// entry. Returns the number of entries.
///
/// # Errors
/// Returns the invariant that is broken.
pub fn entries(mut bytes: &[u8]) -> Result<usize, String> {
    let mut decoded = 0;
    while let Ok(DecodedEntry::Entry(entry, length)) = entry::decode(bytes) {
        if length == 0 || length > bytes.len().min(entry::MAX_ENTRY_BYTES) {
            return Err(format!("a decoded entry has an impossible length: {length} bytes"));
        }
        let mut again = Vec::new();
        entry.encode(&mut again).map_err(|error| format!("a decoded entry cannot be encoded: {error}"))?;
        match entry::decode(&again) {
            Ok(DecodedEntry::Entry(same, _)) if same == entry => {}
            _ => return Err("an entry changes when it is encoded and decoded again".to_owned()),
        }
        bytes = &bytes[length..];
        decoded += 1;
    }
    Ok(decoded)
}

/// Applies bytes from a guest to `directory`, in which `protected` may not be changed, and returns whether all of them were
/// valid. The first byte is the length of the pieces into which the rest is split.
///
/// # Errors
/// Returns an error if `directory` cannot be opened.
pub fn receive(bytes: &[u8], directory: &Path) -> Result<bool, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let allow = |name: &RelativeName, _: &Content| !name.path().starts_with("protected");
    let mut receiver = Receiver::new(Arc::new(SyncRoot { directory, only: None }), Box::new(allow), MAX_BYTES);
    let Some((piece, rest)) = bytes.split_first() else { return Ok(false) };
    let taken = rest.chunks(usize::from(*piece).max(1)).try_for_each(|piece| receiver.push(piece));
    Ok(taken.and_then(|()| receiver.finish()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{super::entry::Entry, *};

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    /// Returns the bytes from a guest that changed a directory, a file of four bytes and a link, and removed a path.
    fn changes() -> Vec<u8> {
        let file = Content::File { mode: 0o644, modified: (1_700_000_000, 5), size: 4 };
        let mut bytes = Vec::new();
        for (path, what) in [
            ("gone", Content::Nothing),
            ("d", Content::Directory { mode: 0o755 }),
            ("d/link", Content::Link { to: b"../f".to_vec() }),
            ("d/f", file),
        ] {
            Entry { path: path.as_bytes().to_vec(), what }.encode(&mut bytes).unwrap();
        }
        bytes.extend_from_slice(b"text");
        bytes.extend_from_slice(&entry::END);
        bytes
    }

    #[test]
    fn seeds_are_accepted_in_full() {
        let directory = tempfile::tempdir().unwrap();
        let received = [&[7], &changes()[..]].concat();
        assert_eq!(entries(&changes()), Ok(4));
        assert_eq!(receive(&received, directory.path()), Ok(true));
        assert_eq!(std::fs::read(directory.path().join("d/f")).unwrap(), b"text");
        keep_seed("guest_entries", "changes", &changes());
        keep_seed("guest_receive", "changes", &received);
    }
}
