use super::*;
use crate::request::{ToolCall, ToolRequest};
use rustix::fs::{CWD, Mode};
use std::{fs, path::Path};

fn found(path: &Path, pattern: &str, change: impl Fn(&mut SearchRequest)) -> Result<SearchResult, ToolError> {
    let mut request = SearchRequest { path: path.into(), pattern: pattern.to_owned(), ..SearchRequest::default() };
    change(&mut request);
    let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::Search(request.clone()) })?;
    search(&resolver, &request)
}

fn lines(result: &SearchResult) -> Vec<(String, u64, String, bool)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    result.lines.iter().map(|line| (text(line.path.as_bytes()), line.line, text(line.text.as_bytes()), line.matches)).collect()
}

#[test]
fn matches_are_returned_with_path_line_and_context() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    fs::write(directory.path().join("sub/a"), "one\ntwo\nthree\nfour\n").unwrap();
    fs::write(directory.path().join("b"), b"tw\xffo two").unwrap();
    let result = found(directory.path(), "^t.o$|two$", |request| request.context = 1).unwrap();
    let expected = [
        ("b".to_owned(), 1, "tw\u{fffd}o two".to_owned(), true),
        ("sub/a".to_owned(), 1, "one".to_owned(), false),
        ("sub/a".to_owned(), 2, "two".to_owned(), true),
        ("sub/a".to_owned(), 3, "three".to_owned(), false),
    ];
    assert_eq!(lines(&result), expected);
    assert_eq!(result.lines[0].text.as_bytes(), b"tw\xffo two");
    assert_eq!((result.matches, result.files, result.binary, result.truncated), (2, 2, 0, None));
    let one = found(&directory.path().join("sub/a"), "four", |_| {}).unwrap();
    assert_eq!(lines(&one), [(String::new(), 4, "four".to_owned(), true)]);
}

#[test]
fn literal_pattern_has_no_special_characters() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a"), "a.*b[\naXXb[\nA.*B[\n").unwrap();
    let literal = found(directory.path(), "a.*b[", |request| request.literal = true).unwrap();
    assert_eq!(lines(&literal), [("a".to_owned(), 1, "a.*b[".to_owned(), true)]);
    let both = |request: &mut SearchRequest| (request.literal, request.ignore_case) = (true, true);
    assert_eq!(found(directory.path(), "a.*b[", both).unwrap().matches, 2);
    for pattern in ["a[", "(", "a{999999999}", "(?:a{1000}){1000}", "\n"] {
        assert_eq!(found(directory.path(), pattern, |_| {}).unwrap_err().code, ErrorCode::Invalid, "{pattern:?}");
    }
}

#[test]
fn result_over_a_limit_is_marked() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a"), format!("{}\n", "x".repeat(3 * limits::LINE)).repeat(5)).unwrap();
    let result = found(directory.path(), "x", |request| request.max_matches = Some(2)).unwrap();
    assert_eq!((result.matches, result.truncated), (2, Some(Truncation::Count)));
    assert!(result.lines[0].cut && result.lines[0].text.as_bytes().len() == limits::LINE);
    let result = found(directory.path(), "x", |request| request.max_bytes = Some(3000)).unwrap();
    assert_eq!((result.matches, result.truncated), (1, Some(Truncation::Bytes)));
    let result = found(directory.path(), "x", |request| request.time_ms = Some(0)).unwrap();
    assert_eq!((result.matches, result.truncated), (0, Some(Truncation::Time)));
    assert_eq!(found(directory.path(), "x", |request| request.max_matches = Some(5)).unwrap().truncated, None);
}

#[test]
fn special_and_binary_files_do_not_stop_the_search() {
    let directory = tempfile::tempdir().unwrap();
    rustix::fs::mkfifoat(CWD, directory.path().join("fifo"), Mode::RWXU).unwrap();
    std::os::unix::fs::symlink("/proc/self/environ", directory.path().join("link")).unwrap();
    fs::write(directory.path().join("binary"), b"\0\0x\n").unwrap();
    fs::write(directory.path().join("text"), "x\n").unwrap();
    let result = found(directory.path(), "x", |_| {}).unwrap();
    assert_eq!((result.matches, result.files, result.binary), (1, 2, 1));
    assert_eq!(found(&directory.path().join("fifo"), "x", |_| {}).unwrap_err().code, ErrorCode::WrongKind);
    assert_eq!(found(&directory.path().join("missing"), "x", |_| {}).unwrap_err().code, ErrorCode::NotFound);
}
