use super::*;
use crate::request::{ToolCall, ToolRequest};
use std::{fs, os::unix::fs::symlink, path::Path};

fn resolver() -> Resolver {
    Resolver::new(&ToolCall { within: None, request: ToolRequest::Remove(RemoveRequest::default()) }).unwrap()
}

fn removed(path: &Path, recursive: bool, missing_ok: bool) -> Result<bool, ErrorCode> {
    let request = RemoveRequest { path: path.into(), recursive, missing_ok };
    remove(&resolver(), &request).map(|result| result.removed).map_err(|error| error.code)
}

fn moved(from: &Path, to: &Path, replace: bool) -> Result<bool, ErrorCode> {
    let request = MoveRequest { from: from.into(), to: to.into(), replace };
    relocate(&resolver(), &request).map(|result| result.copied).map_err(|error| error.code)
}

#[test]
fn link_is_removed_and_its_target_stays() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("target/sub")).unwrap();
    fs::write(at("target/file"), "kept").unwrap();
    symlink("target", at("link")).unwrap();
    fs::create_dir(at("tree")).unwrap();
    symlink("../target", at("tree/link")).unwrap();
    assert_eq!(removed(&at("link"), true, false), Ok(true));
    assert_eq!(removed(&at("tree"), false, false), Err(ErrorCode::WrongKind));
    assert_eq!(removed(&at("tree"), true, false), Ok(true));
    assert_eq!(fs::read(at("target/file")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn missing_file_is_an_error_unless_allowed() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["missing", "missing/below", "--help", "-rf"] {
        let path = directory.path().join(name);
        assert_eq!(removed(&path, true, false), Err(ErrorCode::NotFound), "{name}");
        assert_eq!(removed(&path, true, true), Ok(false), "{name}");
    }
}

#[test]
fn directory_without_a_name_is_not_removed_or_moved() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    for path in ["/".into(), directory.path().join("sub/.."), directory.path().join(".")] {
        assert_eq!(removed(&path, true, true), Err(ErrorCode::Invalid), "{}", path.display());
        assert_eq!(moved(&path, &directory.path().join("new"), true), Err(ErrorCode::Invalid), "{}", path.display());
    }
    assert!(directory.path().join("sub").exists());
}

#[test]
fn move_replaces_only_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("a"), "a").unwrap();
    fs::write(at("b"), "b").unwrap();
    assert_eq!(moved(&at("a"), &at("b"), false), Err(ErrorCode::AlreadyExists));
    assert_eq!(fs::read(at("b")).unwrap(), b"b");
    assert_eq!(moved(&at("a"), &at("b"), true), Ok(false));
    assert_eq!(fs::read(at("b")).unwrap(), b"a");
    assert_eq!(moved(&at("a"), &at("c"), true), Err(ErrorCode::NotFound));
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/x"), "").unwrap();
    assert!(moved(&at("b"), &at("full"), true).is_err());
    symlink("b", at("link")).unwrap();
    assert_eq!(moved(&at("link"), &at("moved"), false), Ok(false));
    assert_eq!(fs::read_link(at("moved")).unwrap(), Path::new("b"));
}
