use super::*;
use crate::request::{StatRequest, ToolRequest};
use proptest::prelude::*;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

fn resolver(within: Option<&Path>) -> Resolver {
    let request = ToolRequest::Stat(StatRequest::default());
    Resolver::new(&ToolCall { within: within.map(Into::into), request }).unwrap()
}

fn stat(resolver: &Resolver, path: &Path, last: LastLink) -> Result<Option<Stat>, ToolError> {
    let place = resolver.resolve("stat", path.as_os_str().as_bytes(), last)?;
    Ok(place.stat().unwrap())
}

/// Creates `in/file`, `in/dir/file`, `secret`, and links in `in` that lead out of it.
fn test_dir() -> tempfile::TempDir {
    let test_dir = tempfile::tempdir().unwrap();
    let path = test_dir.path();
    fs::create_dir_all(path.join("in/dir")).unwrap();
    for file in ["secret", "in/file", "in/dir/file"] {
        fs::write(path.join(file), file).unwrap();
    }
    symlink("../secret", path.join("in/relative")).unwrap();
    symlink(path.join("secret"), path.join("in/absolute")).unwrap();
    symlink("..", path.join("in/dir/up")).unwrap();
    symlink("dir/up/..", path.join("in/out")).unwrap();
    symlink("/proc/self/root", path.join("in/magic")).unwrap();
    symlink(path.join("in/dir/file"), path.join("in/inside")).unwrap();
    symlink("loop", path.join("in/loop")).unwrap();
    test_dir
}

#[test]
fn path_or_link_out_of_the_boundary_is_refused() {
    let test_dir = test_dir();
    let within = test_dir.path().join("in");
    let resolver = resolver(Some(&within));
    for path in
        ["../secret", "relative", "absolute", "out/secret", "dir/../../secret", "dir/up/../secret", "magic/etc/passwd", "/etc"]
    {
        let error = stat(&resolver, Path::new(path), LastLink::Follow).unwrap_err();
        assert_eq!(error.code, ErrorCode::Outside, "{path}: {error}");
    }
    let sibling = test_dir.path().join("in-too");
    fs::create_dir(&sibling).unwrap();
    assert_eq!(stat(&resolver, &sibling, LastLink::Follow).unwrap_err().code, ErrorCode::Outside);
}

#[test]
fn path_and_link_inside_the_boundary_are_resolved() {
    let test_dir = test_dir();
    let within = test_dir.path().join("in");
    let resolver = resolver(Some(&within));
    let inode = |path: &str| fs::metadata(test_dir.path().join(path)).unwrap().ino();
    for (path, expected) in [
        ("file", "in/file"),
        ("./dir//../file", "in/file"),
        ("dir/up/file", "in/file"),
        ("inside", "in/dir/file"),
        ("dir/", "in/dir"),
        ("dir/up/", "in"),
        (".", "in"),
    ] {
        let found = stat(&resolver, Path::new(path), LastLink::Follow).unwrap().unwrap();
        assert_eq!(found.st_ino, inode(expected), "{path}");
    }
    let absolute = stat(&resolver, &within.join("dir/file"), LastLink::Follow).unwrap().unwrap();
    assert_eq!(absolute.st_ino, inode("in/dir/file"));
    let link = stat(&resolver, Path::new("relative"), LastLink::Keep).unwrap().unwrap();
    assert_eq!(kind(&link), NodeKind::Symlink);
}

#[test]
fn path_without_boundary_is_resolved_as_by_the_kernel() {
    let test_dir = test_dir();
    let resolver = resolver(None);
    for path in
        ["in/file", "in/relative", "in/absolute", "in/out/secret", "in/dir/up/../secret", "in/inside", "in/dir/up", "in/./"]
    {
        let path = test_dir.path().join(path);
        let found = stat(&resolver, &path, LastLink::Follow).unwrap().unwrap();
        assert_eq!(found.st_ino, fs::metadata(&path).unwrap().ino(), "{}", path.display());
    }
}

#[test]
fn malformed_path_is_refused_and_missing_file_is_not_empty() {
    let test_dir = test_dir();
    let resolver = resolver(None);
    let code = |path: &[u8]| resolver.resolve("read", path, LastLink::Follow).map(drop).map_err(|error| error.code);
    assert_eq!(code(b""), Err(ErrorCode::Invalid));
    assert_eq!(code(b"a\0b"), Err(ErrorCode::Invalid));
    assert_eq!(code(&b"a/".repeat(3000)), Err(ErrorCode::Invalid));
    assert_eq!(code(test_dir.path().join("in/loop").as_os_str().as_bytes()), Err(ErrorCode::System));
    assert_eq!(code(test_dir.path().join("missing/x").as_os_str().as_bytes()), Err(ErrorCode::NotFound));
    assert_eq!(code(test_dir.path().join("in/file/x").as_os_str().as_bytes()), Err(ErrorCode::WrongKind));
    assert!(stat(&resolver, &test_dir.path().join("missing"), LastLink::Follow).unwrap().is_none());
}

#[test]
fn special_file_is_refused_without_blocking() {
    let test_dir = tempfile::tempdir().unwrap();
    rustix::fs::mkfifoat(CWD, test_dir.path().join("fifo"), Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(test_dir.path().join("socket")).unwrap();
    let resolver = resolver(None);
    for path in [test_dir.path().join("fifo"), test_dir.path().join("socket"), "/dev/null".into(), test_dir.path().into()] {
        let path = path.as_os_str().as_bytes();
        for flags in [OFlags::RDONLY, OFlags::WRONLY] {
            let error = resolver.resolve("read", path, LastLink::Follow).unwrap().open_regular("read", path, flags).unwrap_err();
            assert_eq!(error.code, ErrorCode::WrongKind, "{error}");
        }
    }
}

proptest! {
    #[test]
    fn no_path_of_links_and_parents_leaves_the_boundary(
        parts in prop::collection::vec(prop::sample::select(vec![
            "..", ".", "", "file", "dir", "up", "relative", "absolute", "out", "magic", "inside", "loop", "in", "secret",
        ]), 0..8),
    ) {
        let test_dir = test_dir();
        let resolver = resolver(Some(&test_dir.path().join("in")));
        let secret = fs::metadata(test_dir.path().join("secret")).unwrap().ino();
        let outside = fs::metadata(test_dir.path()).unwrap().ino();
        if let Ok(Some(found)) = stat(&resolver, Path::new(&parts.join("/")), LastLink::Follow) {
            prop_assert!(found.st_ino != secret && found.st_ino != outside);
        }
    }
}
