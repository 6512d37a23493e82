use super::*;
use crate::{
    error::ErrorCode,
    request::{ToolCall, ToolRequest, TreeFilter},
};
use std::{fs, os::unix::fs::symlink, path::Path};

fn listing(path: &Path, change: impl Fn(&mut ListRequest)) -> Result<ListResult, ToolError> {
    let mut request = ListRequest { path: path.into(), depth: Some(5), ..ListRequest::default() };
    change(&mut request);
    let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::List(request.clone()) })?;
    list(&resolver, &request)
}

fn paths(result: &ListResult) -> Vec<String> {
    result.entries.iter().map(|entry| String::from_utf8_lossy(entry.path.as_bytes()).into_owned()).collect()
}

/// Creates a repository with ignored, hidden and linked files.
fn repository() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for folder in [".git/info", "src/deep", "target"] {
        fs::create_dir_all(directory.path().join(folder)).unwrap();
    }
    for (file, content) in [
        (".gitignore", "/target\n*.log\n!keep.log\n"),
        (".git/info/exclude", "excluded\n"),
        ("src/.ignore", "deep\n"),
        ("src/main.rs", "fn main() {}\n"),
        ("src/a.log", ""),
        ("src/keep.log", ""),
        ("src/deep/file", ""),
        ("target/out", ""),
        ("excluded", ""),
        ("new\nline", ""),
    ] {
        fs::write(directory.path().join(file), content).unwrap();
    }
    symlink("/", directory.path().join("src/link")).unwrap();
    directory
}

#[test]
fn listing_leaves_out_hidden_and_ignored_files_and_counts_them() {
    let directory = repository();
    let result = listing(directory.path(), |_| {}).unwrap();
    assert_eq!(paths(&result), ["new\nline", "src", "src/keep.log", "src/link", "src/main.rs"]);
    assert_eq!((result.left_out.hidden, result.left_out.ignored, result.left_out.unreadable), (3, 4, 0));
    let link = result.entries.iter().find(|entry| entry.kind == NodeKind::Symlink).unwrap();
    assert_eq!(link.target, Some("/".into()));
    let filter = TreeFilter { hidden: true, ignored: true, ..TreeFilter::default() };
    let all = listing(directory.path(), |request| request.filter = filter.clone()).unwrap();
    assert_eq!(all.entries.len(), 16);
    assert!(paths(&all).contains(&".git/info/exclude".to_owned()));
}

#[test]
fn rules_of_the_repository_apply_below_its_top() {
    let directory = repository();
    let result = listing(&directory.path().join("src"), |_| {}).unwrap();
    assert_eq!(paths(&result), ["keep.log", "link", "main.rs"]);
    // Beyond the boundary, no rule is read.
    let within = directory.path().join("src");
    let request = ListRequest { path: ".".into(), ..ListRequest::default() };
    let call = ToolCall { within: Some(within.as_path().into()), request: ToolRequest::List(request.clone()) };
    let bounded = list(&Resolver::new(&call).unwrap(), &request).unwrap();
    assert_eq!(paths(&bounded), ["a.log", "keep.log", "link", "main.rs"]);
}

#[test]
fn glob_and_depth_choose_files() {
    let directory = repository();
    let globs = |patterns: &[&str]| TreeFilter {
        glob: patterns.iter().map(|glob| (*glob).to_owned()).collect(),
        ..TreeFilter::default()
    };
    let result = listing(directory.path(), |request| request.filter = globs(&["*.rs"])).unwrap();
    assert_eq!(paths(&result), ["src/main.rs"]);
    let result = listing(directory.path(), |request| request.filter = globs(&["!src"])).unwrap();
    assert_eq!(paths(&result), ["new\nline"]);
    let result = listing(directory.path(), |request| request.depth = None).unwrap();
    assert_eq!(paths(&result), ["new\nline", "src"]);
    let error = listing(directory.path(), |request| request.filter = globs(&["a[b"])).unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
}

#[test]
fn listing_over_its_limit_is_marked() {
    let directory = repository();
    let result = listing(directory.path(), |request| request.max_entries = Some(2)).unwrap();
    assert_eq!((result.entries.len(), result.truncated), (2, Some(Truncation::Count)));
    let exact = listing(directory.path(), |request| request.max_entries = Some(5)).unwrap();
    assert_eq!((exact.entries.len(), exact.truncated), (5, None));
    let late = listing(directory.path(), |request| request.time_ms = Some(0)).unwrap();
    assert_eq!((late.entries.len(), late.truncated), (0, Some(Truncation::Time)));
}

#[test]
fn file_and_missing_directory_are_refused() {
    let directory = repository();
    let code = |path: &str| listing(&directory.path().join(path), |_| {}).unwrap_err().code;
    assert_eq!(code("src/main.rs"), ErrorCode::WrongKind);
    assert_eq!(code("missing"), ErrorCode::NotFound);
}
