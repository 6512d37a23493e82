use super::*;
use crate::{
    limits,
    request::{ToolCall, ToolRequest},
    response::Truncation,
};
use ::tar::{Builder, EntryType, Header};
use std::{
    fs,
    io::{Cursor, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// An entry of a tar archive: name, type, target of a link, content, mode.
type TarEntry<'a> = (&'a [u8], EntryType, &'a [u8], &'a [u8], u32);

/// Creates a tar archive whose names are not checked.
fn tar(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (name, kind, link, content, mode) in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn zip(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = ::zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        match mode & 0o170_000 {
            0o120_000 => archive.add_symlink(*name, String::from_utf8_lossy(content), options).unwrap(),
            _ if name.ends_with('/') => archive.add_directory(*name, options).unwrap(),
            _ => {
                archive.start_file(*name, options).unwrap();
                archive.write_all(content).unwrap();
            }
        }
    }
    archive.finish().unwrap().into_inner()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A directory with the file `archive`, and `outside`, which no archive may change.
struct ArchiveDir(tempfile::TempDir);

impl ArchiveDir {
    fn new(archive: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("archive"), archive).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/file"), "kept").unwrap();
        Self(directory)
    }

    fn new_directory(&self) -> std::path::PathBuf {
        self.0.path().join("new")
    }

    fn read(&self, extract: bool, change: impl Fn(&mut ArchiveRequest)) -> Result<ArchiveResult, ToolError> {
        let path = self.0.path().join("archive");
        let extract_to = extract.then(|| self.new_directory().as_path().into());
        let mut request = ArchiveRequest { path: path.as_path().into(), extract_to, ..ArchiveRequest::default() };
        change(&mut request);
        let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::Archive(request.clone()) })?;
        let result = archive(&resolver, &request);
        assert_eq!(fs::read(self.0.path().join("outside/file")).unwrap(), b"kept");
        let mut names: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "new");
        assert_eq!(names.len(), 2, "{names:?}");
        result
    }

    fn list(&self) -> Result<ArchiveResult, ToolError> {
        self.read(false, |_| {})
    }

    fn extract(&self) -> Result<ArchiveResult, ToolError> {
        self.read(true, |_| {})
    }
}

fn refused(result: &ArchiveResult) -> Vec<(String, bool)> {
    let name = |member: &crate::response::ArchiveMember| String::from_utf8_lossy(member.path.as_bytes()).into_owned();
    result.entries.iter().map(|member| (name(member), member.refused.is_some())).collect()
}

const TREE: [TarEntry<'static>; 5] = [
    (b"dir/", EntryType::Directory, b"", b"", 0o700),
    (b"dir/file", EntryType::Regular, b"", b"content\xff", 0o6755),
    (b"dir/link", EntryType::Symlink, b"../top", b"", 0o777),
    (b"hard", EntryType::Link, b"dir/file", b"", 0o644),
    (b"top", EntryType::Regular, b"", b"", 0o600),
];

#[test]
fn archive_of_each_compression_is_listed_and_extracted() {
    let plain = tar(&TREE);
    for (format, bytes) in [("tar", plain.clone()), ("tar.gz", gzip(&plain)), ("tar.xz", xz(&plain)), ("tar.zst", zstd(&plain))] {
        let archive_dir = ArchiveDir::new(&bytes);
        let listed = archive_dir.list().unwrap();
        assert_eq!((listed.format.as_str(), listed.count, listed.bytes, listed.truncated), (format, 5, 8, None));
        assert!(!archive_dir.new_directory().exists());
        let extracted = archive_dir.extract().unwrap();
        assert_eq!((extracted.entries.len(), extracted.count, extracted.bytes), (0, 5, 8), "{format}");
        let new = archive_dir.new_directory();
        assert_eq!(fs::read(new.join("hard")).unwrap(), b"content\xff");
        assert_eq!(fs::read_link(new.join("dir/link")).unwrap(), Path::new("../top"));
        assert_eq!(fs::metadata(new.join("dir/file")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(new.join("top")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(new.join("dir")).unwrap().mode() & 0o7777, 0o700);
    }
}

#[test]
fn zip_archive_is_listed_and_extracted() {
    let archive_dir = ArchiveDir::new(&zip(&[
        ("dir/", 0o755, b""),
        ("dir/file", 0o100_755, b"content"),
        ("dir/link", 0o120_777, b"../top"),
        ("top", 0o100_600, b"x"),
    ]));
    let listed = archive_dir.list().unwrap();
    assert_eq!((listed.format.as_str(), listed.count, listed.bytes), ("zip", 4, 8));
    let extracted = archive_dir.extract().unwrap();
    assert_eq!((extracted.entries.len(), extracted.count, extracted.bytes), (0, 4, 8));
    assert_eq!(fs::read(archive_dir.new_directory().join("dir/file")).unwrap(), b"content");
    assert_eq!(fs::read_link(archive_dir.new_directory().join("dir/link")).unwrap(), Path::new("../top"));
}

#[test]
fn entry_that_leads_out_is_refused_and_the_others_are_extracted() {
    let entries: [TarEntry<'_>; 13] = [
        (b"../outside/file", EntryType::Regular, b"", b"x", 0o644),
        (b"/outside", EntryType::Regular, b"", b"x", 0o644),
        (b"a/../../outside/file", EntryType::Regular, b"", b"x", 0o644),
        (b"up", EntryType::Symlink, b"../outside", b"", 0o777),
        (b"absolute", EntryType::Symlink, b"/etc", b"", 0o777),
        (b"down", EntryType::Symlink, b"dir/../../outside", b"", 0o777),
        (b"hard", EntryType::Link, b"../outside/file", b"", 0o644),
        (b"missing", EntryType::Link, b"nothing", b"", 0o644),
        (b"null", EntryType::Char, b"", b"", 0o666),
        (b"disk", EntryType::Block, b"", b"", 0o666),
        (b"pipe", EntryType::Fifo, b"", b"", 0o666),
        (b".", EntryType::Symlink, b"outside", b"", 0o777),
        (b"good", EntryType::Regular, b"", b"x", 0o644),
    ];
    let archive_dir = ArchiveDir::new(&tar(&entries));
    let result = archive_dir.extract().unwrap();
    assert_eq!((result.count, result.bytes), (1, 1));
    assert_eq!(refused(&result).len(), 12);
    assert!(refused(&result).iter().all(|(_, is_refused)| *is_refused));
    assert_eq!(fs::read_dir(archive_dir.new_directory()).unwrap().count(), 1);
    let zipped =
        ArchiveDir::new(&zip(&[("../outside/file", 0o644, b"x"), ("up", 0o120_777, b"../outside"), ("good", 0o644, b"x")]));
    assert_eq!(zipped.extract().unwrap().count, 1);
    assert_eq!(fs::read_dir(zipped.new_directory()).unwrap().count(), 1);
}

#[test]
fn nothing_is_written_through_a_link_of_the_archive() {
    // The links are inside when checked alone; the entries behind them are written before the links exist.
    let entries: [TarEntry<'_>; 4] = [
        (b"here", EntryType::Symlink, b".", b"", 0o777),
        (b"here/file", EntryType::Regular, b"", b"x", 0o644),
        (b"file2", EntryType::Symlink, b"here", b"", 0o777),
        (b"file2", EntryType::Regular, b"", b"y", 0o644),
    ];
    let archive_dir = ArchiveDir::new(&tar(&entries));
    let result = archive_dir.extract().unwrap();
    assert_eq!(refused(&result), [("here".to_owned(), true), ("file2".to_owned(), true)]);
    let new = archive_dir.new_directory();
    assert!(new.join("here").is_dir() && fs::read(new.join("here/file")).unwrap() == b"x");
    assert_eq!(fs::read(new.join("file2")).unwrap(), b"y");
}

#[test]
fn later_entry_replaces_an_earlier_file_but_no_directory() {
    let entries: [TarEntry<'_>; 4] = [
        (b"a", EntryType::Regular, b"", b"1", 0o644),
        (b"a", EntryType::Regular, b"", b"2", 0o600),
        (b"d/x", EntryType::Regular, b"", b"", 0o644),
        (b"d", EntryType::Regular, b"", b"", 0o644),
    ];
    let archive_dir = ArchiveDir::new(&tar(&entries));
    assert_eq!(refused(&archive_dir.extract().unwrap()), [("d".to_owned(), true)]);
    assert_eq!(fs::read(archive_dir.new_directory().join("a")).unwrap(), b"2");
}

#[test]
fn bomb_ends_with_an_error_and_leaves_nothing() {
    let zeros = vec![0; 8 << 20];
    let plain = tar(&[(b"zeros", EntryType::Regular, b"", &zeros, 0o644)]);
    let small = |request: &mut ArchiveRequest| request.max_bytes = Some(1 << 20);
    for bytes in [gzip(&plain), zstd(&plain), xz(&plain), plain.clone(), zip(&[("zeros", 0o644, &zeros)])] {
        let archive_dir = ArchiveDir::new(&bytes);
        for extract in [true, false] {
            assert_eq!(archive_dir.read(extract, small).unwrap_err().code, ErrorCode::Limit);
            assert!(!archive_dir.new_directory().exists());
        }
        assert_eq!(archive_dir.extract().unwrap().bytes, 8 << 20);
    }
    assert_eq!(receiver::plain_limit(1000, u64::MAX), limits::RATIO_FREE);
    assert_eq!(receiver::plain_limit(1 << 20, u64::MAX), limits::RATIO << 20);
}

#[test]
fn malformed_archive_is_refused_and_leaves_nothing() {
    let plain = tar(&TREE);
    let gzipped = gzip(&plain);
    for bytes in [&b""[..], b"text", &b"text".repeat(1000), &gzipped[..gzipped.len() / 2], b"PK\x03\x04", b"\xfd7zXZ\0\0\0"] {
        let archive_dir = ArchiveDir::new(bytes);
        assert_eq!(archive_dir.list().unwrap_err().code, ErrorCode::Malformed, "{bytes:?}");
        assert_eq!(archive_dir.extract().unwrap_err().code, ErrorCode::Malformed, "{bytes:?}");
        assert!(!archive_dir.new_directory().exists());
    }
}

#[test]
fn directory_that_is_not_empty_is_not_replaced() {
    let archive_dir = ArchiveDir::new(&tar(&TREE));
    fs::create_dir(archive_dir.new_directory()).unwrap();
    archive_dir.extract().unwrap();
    assert_eq!(archive_dir.extract().unwrap_err().code, ErrorCode::AlreadyExists);
    fs::remove_dir_all(archive_dir.new_directory()).unwrap();
    fs::write(archive_dir.new_directory(), "file").unwrap();
    assert_eq!(archive_dir.extract().unwrap_err().code, ErrorCode::AlreadyExists);
    assert_eq!(fs::read(archive_dir.new_directory()).unwrap(), b"file");
}

#[test]
fn glob_and_limit_choose_entries() {
    let archive_dir = ArchiveDir::new(&tar(&TREE));
    let listed = archive_dir.read(false, |request| request.max_entries = Some(2)).unwrap();
    assert_eq!((listed.entries.len(), listed.count, listed.truncated), (2, 5, Some(Truncation::Count)));
    let extracted = archive_dir.read(true, |request| request.glob = vec!["top".to_owned()]).unwrap();
    assert_eq!((extracted.count, fs::read_dir(archive_dir.new_directory()).unwrap().count()), (1, 1));
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_names_and_links_lead_out(
            entries in prop::collection::vec(
                (
                    prop::collection::vec(prop::sample::select(vec!["a", "b", ".", "..", "outside", "file"]), 1..4),
                    prop::collection::vec(prop::sample::select(vec!["a", "b", ".", "..", "outside", "file"]), 1..4),
                    0..4_usize,
                ),
                1..10,
            ),
        ) {
            let kinds = [EntryType::Regular, EntryType::Symlink, EntryType::Link, EntryType::Directory];
            let entries: Vec<(String, String, EntryType)> =
                entries.into_iter().map(|(name, link, kind)| (name.join("/"), link.join("/"), kinds[kind])).collect();
            let entries: Vec<TarEntry<'_>> = entries
                .iter()
                .map(|(name, link, kind)| {
                    let is_file = *kind == EntryType::Regular;
                    let (link, content) = if is_file { (&b""[..], &b"x"[..]) } else { (link.as_bytes(), &b""[..]) };
                    (name.as_bytes(), *kind, link, content, 0o644)
                })
                .collect();
            let archive_dir = ArchiveDir::new(&tar(&entries));
            if archive_dir.extract().is_ok() {
                let inside = fs::canonicalize(archive_dir.new_directory()).unwrap();
                let mut waiting = vec![inside.clone()];
                while let Some(directory) = waiting.pop() {
                    for entry in fs::read_dir(directory).unwrap() {
                        let path = entry.unwrap().path();
                        let kind = fs::symlink_metadata(&path).unwrap().file_type();
                        if kind.is_symlink() && let Ok(target) = fs::canonicalize(&path) {
                            prop_assert!(target.starts_with(&inside), "{} leads to {}", path.display(), target.display());
                        }
                        if kind.is_dir() {
                            waiting.push(path);
                        }
                    }
                }
            }
        }
    }
}
