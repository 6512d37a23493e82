use super::*;
use crate::request::{ToolCall, ToolRequest};
use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

fn put(
    path: &Path,
    disposition: Disposition,
    content: &[u8],
    change: impl Fn(&mut WriteRequest),
) -> Result<WriteResult, ToolError> {
    let mut request = WriteRequest { path: path.into(), disposition, ..WriteRequest::default() };
    change(&mut request);
    let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::Write(request.clone()) })?;
    write(&resolver, &request, &mut &content[..], content.len() as u64)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn bytes_are_exact_whatever_the_name_and_the_content() {
    let directory = tempfile::tempdir().unwrap();
    let long = b"'\"$(touch x)`\\*?[a]\0\xff\n".repeat(10_000);
    assert!(long.len() > 200_000);
    for name in ["--help", "-rf", "a b", "new\nline", "*", "$(x)", "\u{fc}", "a'b\"c"] {
        let path = directory.path().join(name);
        let result = put(&path, Disposition::Create, &long, |_| {}).unwrap();
        assert!(result.created && result.written == long.len() as u64, "{name}");
        assert!(fs::read(&path).unwrap() == long, "{name}");
    }
    let raw = directory.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    put(&raw, Disposition::Overwrite, b"", |_| {}).unwrap();
    assert_eq!(fs::read(&raw).unwrap(), b"");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 9);
}

#[test]
fn disposition_decides_on_a_file_that_exists() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    assert!(put(&path, Disposition::Append, b"a", |_| {}).unwrap().created);
    assert_eq!(put(&path, Disposition::Create, b"b", |_| {}).unwrap_err().code, ErrorCode::AlreadyExists);
    let appended = put(&path, Disposition::Append, b"c", |_| {}).unwrap();
    assert_eq!((appended.written, appended.size, appended.created), (1, 2, false));
    assert_eq!(fs::read(&path).unwrap(), b"ac");
    assert!(!put(&path, Disposition::Overwrite, b"d", |request| request.sync = true).unwrap().created);
    assert_eq!(fs::read(&path).unwrap(), b"d");
    assert_eq!(names(directory.path()), ["file"]);
}

#[test]
fn overwritten_file_keeps_its_permissions_without_set_id_bits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4750)).unwrap();
    put(&path, Disposition::Overwrite, b"new", |_| {}).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);
    put(&path, Disposition::Overwrite, b"new", |request| request.mode = Some(Permissions::from_mode(0o600))).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn link_is_followed_and_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("target"), "old").unwrap();
    symlink("target", directory.path().join("link")).unwrap();
    symlink("missing", directory.path().join("dangling")).unwrap();
    put(&directory.path().join("link"), Disposition::Overwrite, b"new", |_| {}).unwrap();
    put(&directory.path().join("dangling"), Disposition::Overwrite, b"made", |_| {}).unwrap();
    assert_eq!(fs::read(directory.path().join("target")).unwrap(), b"new");
    assert_eq!(fs::read(directory.path().join("missing")).unwrap(), b"made");
    assert_eq!(names(directory.path()), ["dangling", "link", "missing", "target"]);
}

#[test]
fn content_that_ends_early_leaves_the_file_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    for disposition in [Disposition::Overwrite, Disposition::Append] {
        let request = WriteRequest { path: path.as_path().into(), disposition, ..WriteRequest::default() };
        let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::Write(request.clone()) }).unwrap();
        let error = write(&resolver, &request, &mut &b"half"[..], 8).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
    assert_eq!(names(directory.path()), ["file"]);
}

#[test]
fn special_file_or_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("fifo"), Mode::RWXU).unwrap();
    for path in [directory.path().join("fifo"), "/dev/null".into()] {
        for disposition in [Disposition::Overwrite, Disposition::Append] {
            assert_eq!(put(&path, disposition, b"x", |_| {}).unwrap_err().code, ErrorCode::WrongKind, "{}", path.display());
        }
    }
    for path in [directory.path().join(""), directory.path().join("."), "/".into()] {
        assert_eq!(put(&path, Disposition::Overwrite, b"x", |_| {}).unwrap_err().code, ErrorCode::Invalid, "{}", path.display());
    }
}

#[test]
fn missing_directories_are_created_on_request_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/c");
    assert_eq!(put(&path, Disposition::Create, b"x", |_| {}).unwrap_err().code, ErrorCode::NotFound);
    put(&path, Disposition::Create, b"x", |request| request.parents = true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let within = Some(directory.path().into());
    for (path, is_inside) in [(directory.path().join("d/e/f"), true), (directory.path().join("../agentd-outside/x"), false)] {
        let request = WriteRequest { path: path.as_path().into(), parents: true, ..WriteRequest::default() };
        let call = ToolCall { within: within.clone(), request: ToolRequest::Write(request.clone()) };
        let written = write(&Resolver::new(&call).unwrap(), &request, &mut &b"x"[..], 1);
        assert_eq!(written.map(drop).map_err(|error| error.code), if is_inside { Ok(()) } else { Err(ErrorCode::Outside) });
    }
    assert!(!directory.path().join("../agentd-outside").exists());
    let below_file = path.join("d/e");
    assert_eq!(
        put(&below_file, Disposition::Create, b"x", |request| request.parents = true).unwrap_err().code,
        ErrorCode::WrongKind
    );
}
