use super::*;
use crate::request::{TextEdit, ToolCall, ToolRequest};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

fn edit_file(path: &Path, edits: Vec<TextEdit>, dry_run: bool) -> Result<(EditResult, Vec<u8>), ToolError> {
    let request = EditRequest { path: path.into(), edits, dry_run, sync: false };
    let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::Edit(request.clone()) })?;
    edit(&resolver, &request)
}

fn literal(old: &str, new: &str) -> TextEdit {
    TextEdit::Literal { old: old.into(), new: new.into(), all: false }
}

#[test]
fn edit_returns_a_diff_that_describes_the_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, b"one\ntwo\nthree \xff\n").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let edits = vec![literal("two", "2")];
    let (result, diff) = edit_file(&path, edits.clone(), true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree \xff\n");
    let text = [format!("--- a/{0}\n+++ b/{0}\n", path.display()).as_bytes(), b"@@ -1,3 +1,3 @@\n one\n-two\n+2\n three \xff\n"]
        .concat();
    assert_eq!(diff, text);
    assert_eq!((result.replaced, result.size, result.diff_truncated), (1, 14, None));
    assert_eq!(edit_file(&path, edits, false).unwrap(), (result, diff));
    assert_eq!(fs::read(&path).unwrap(), b"one\n2\nthree \xff\n");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn failing_edit_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "one\n").unwrap();
    for (edit, code) in [(literal("x", "y"), ErrorCode::NoMatch), (literal("one", "x"), ErrorCode::Overlap)] {
        let error = edit_file(&path, vec![literal("one", "1"), edit], false).unwrap_err();
        assert_eq!(error.code, code);
        assert_eq!(error.path, Some(path.as_path().into()));
    }
    assert_eq!(edit_file(&directory.path().join("no"), vec![literal("a", "b")], false).unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(fs::read(&path).unwrap(), b"one\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn diff_over_its_limit_is_cut_after_a_line_and_marked() {
    let old = b"0123456789\n".repeat(limits::DIFF / 10);
    let (cut, is_whole) = diff(&old, b"", b"file");
    assert!(!is_whole && cut.ends_with(b"\n") && cut.len() <= limits::DIFF);
    assert_eq!(diff(b"a", b"a", b"file"), (Vec::new(), true));
}

#[test]
fn file_over_the_limit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::File::create(&path).unwrap().set_len(limits::EDIT + 1).unwrap();
    assert_eq!(edit_file(&path, vec![literal("a", "b")], false).unwrap_err().code, ErrorCode::Limit);
}
