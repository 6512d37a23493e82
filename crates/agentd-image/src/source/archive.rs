//! Random access to the files of a tar archive.

use super::files::OpenFile;
use crate::unpack::{Bound, Bounds, Kind, Record, UnpackError, for_each};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

/// Maximum length of a chain of links, the final file included. `docker save` wrote a link from one layer to another when both
/// layers were identical.
const MAX_LINKS: usize = 8;

/// An archive and the positions of its files. Only files that an image description can name are recorded.
pub(crate) struct Archive {
    file: Arc<File>,
    parts: HashMap<String, Part>,
    entries: u64,
}

enum Part {
    Data { position: u64, size: u64 },
    Link(String),
}

impl Part {
    /// Returns the number of bytes that this part and its name occupy in memory.
    fn cost(&self, name: &str) -> usize {
        let link = if let Self::Link(target) = self { target.len() } else { 0 };
        name.len() + link + size_of::<(String, Self)>()
    }
}

impl Archive {
    /// Reads the whole archive and records the positions of its files.
    pub(super) fn scan(file: File, bounds: &Bounds) -> Result<Self, UnpackError> {
        let file = Arc::new(file);
        let mut parts = HashMap::new();
        let (mut entries, mut names) = (0, 0);
        let whole = Section { file: Arc::clone(&file), position: 0, end: u64::MAX };
        for_each(BufReader::with_capacity(64 << 10, whole), bounds, |record, _| {
            entries += 1;
            if let Some((name, part)) = part(&record, bounds) {
                names += part.cost(&name);
                if names > bounds.names {
                    return Err(UnpackError::TooLarge { bound: Bound::Names, max: bounds.names as u64, path: None });
                }
                parts.insert(name, part);
            }
            Ok::<_, UnpackError>(())
        })?;
        Ok(Self { file, parts, entries })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn open(&self, name: &str) -> Option<OpenFile> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match self.parts.get(name)? {
                Part::Link(target) => name = target,
                Part::Data { position, size } => {
                    let section =
                        Section { file: Arc::clone(&self.file), position: *position, end: position.saturating_add(*size) };
                    return Some(OpenFile { content: Box::new(section), size: *size });
                }
            }
        }
        None
    }
}

/// Returns the name and position of a file that an image description can name. Returns `None` for other entries, and for a path
/// or link longer than [`Bounds::path`].
fn part(record: &Record, bounds: &Bounds) -> Option<(String, Part)> {
    if record.path.len() > bounds.path || record.link.len() > bounds.path {
        return None;
    }
    let name = plain(str::from_utf8(&record.path).ok()?)?;
    let at_the_top = !name.contains('/');
    let of_a_description = name == "oci-layout"
        || name.starts_with("blobs/")
        || name.ends_with("/layer.tar")
        || (at_the_top && (name.ends_with(".json") || name.ends_with(".tar")));
    if !of_a_description {
        return None;
    }
    let link = || str::from_utf8(&record.link).ok();
    let part = match record.kind {
        Kind::File => Part::Data { position: record.position, size: record.size },
        Kind::HardLink => Part::Link(plain(link()?)?),
        Kind::Symlink => Part::Link(plain(&format!("{}/../{}", name, link()?))?),
        _ => return None,
    };
    Some((name, part))
}

/// Normalizes a name by resolving `.` and `..`; `None` if the name leads out of the archive.
fn plain(name: &str) -> Option<String> {
    let mut plain = Vec::new();
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(plain.pop()?),
            _ => plain.push(component),
        }
    }
    Some(plain.join("/"))
}

/// A range of a shared file with a separate read position.
struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..left], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tar::{Builder, EntryType, Header};

    /// Scans an archive that contains `entries` as pairs of a name and a link target. An empty target makes a regular file.
    fn scan(entries: &[(&str, &str)], bounds: &Bounds) -> Result<Archive, UnpackError> {
        let mut archive = Builder::new(tempfile::tempfile().unwrap());
        for (name, link) in entries {
            let mut header = Header::new_ustar();
            header.set_entry_type(if link.is_empty() { EntryType::Regular } else { EntryType::Link });
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            let long = [("path", name.as_bytes()), ("linkpath", link.as_bytes())];
            archive.append_pax_extensions(long.into_iter().filter(|(_, value)| !value.is_empty())).unwrap();
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        }
        let mut file = archive.into_inner().unwrap();
        file.flush().unwrap();
        io::Seek::rewind(&mut file).unwrap();
        Archive::scan(file, bounds)
    }

    #[test]
    fn stored_names_of_archive_are_bounded() {
        let bounds = Bounds { names: 10_000, path: 1000, ..Bounds::default() };
        let names: Vec<_> = (0..20).map(|at| format!("blobs/{at:0600}")).collect();
        let data: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        let links: Vec<_> = names.iter().map(|name| ("a.json", name.as_str())).collect();
        let short = [("blobs/a", ""); 200];
        for many in [&data[..], &links, &short] {
            assert_eq!(scan(&many[..10], &bounds).unwrap().entries, 10);
            assert!(matches!(scan(many, &bounds), Err(UnpackError::TooLarge { bound: Bound::Names, .. })));
        }
        // An image description cannot name these files, so they do not count.
        let others: Vec<_> = names.iter().map(|name| (&name[5..], "")).collect();
        assert_eq!(scan(&others, &bounds).unwrap().entries, 20);
    }

    #[test]
    fn name_longer_than_path_bound_is_not_stored() {
        let long = format!("blobs/{}", "n".repeat(100));
        let archive =
            scan(&[(&long, ""), ("a.json", &long), ("b.json", "")], &Bounds { path: 100, ..Bounds::default() }).unwrap();
        assert_eq!(archive.parts.keys().collect::<Vec<_>>(), ["b.json"]);
    }

    #[test]
    fn link_target_outside_archive_is_ignored() {
        assert_eq!(plain("a/layer.tar/../../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(plain("./a//b").as_deref(), Some("a/b"));
        assert_eq!(plain("a/../../b"), None);
    }
}
