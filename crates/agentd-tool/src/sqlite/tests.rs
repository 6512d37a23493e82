use super::*;
use crate::request::{ToolCall, ToolRequest};
use serde_json::{Map, json};
use std::fs;

fn run_sql(path: &Path, sql: &str, change: impl Fn(&mut SqliteRequest)) -> Result<SqliteResult, ToolError> {
    let mut request = SqliteRequest { path: path.into(), sql: sql.to_owned(), ..SqliteRequest::default() };
    change(&mut request);
    let resolver = Resolver::new(&ToolCall { within: None, request: ToolRequest::Sqlite(request.clone()) })?;
    query(&resolver, &request)
}

fn writes(request: &mut SqliteRequest) {
    request.write = true;
}

fn code(path: &Path, sql: &str, change: impl Fn(&mut SqliteRequest)) -> ErrorCode {
    run_sql(path, sql, change).unwrap_err().code
}

/// Creates a database with the table `t` of three rows.
fn database() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.db");
    run_sql(&path, "CREATE TABLE t (id INTEGER PRIMARY KEY, value)", writes).unwrap();
    let inserted = run_sql(&path, "INSERT INTO t (value) VALUES ('a'), (x'ff'), (1.5)", writes).unwrap();
    assert_eq!(inserted.changes, 3);
    (directory, path)
}

#[test]
fn values_are_exact_in_both_directions() {
    let (_directory, path) = database();
    let result = run_sql(&path, "SELECT value AS v FROM t ORDER BY id", |_| {}).unwrap();
    assert_eq!(result.columns, ["v"]);
    assert_eq!(result.rows, [[json!("a")], [json!({"base64": "/w=="})], [json!(1.5)]]);
    assert_eq!((result.changes, result.truncated), (0, None));
    let values = vec![json!(null), json!(i64::MIN), json!("'; DROP TABLE t; --"), json!({"base64": "AP8="}), json!(-0.5)];
    let bound = |request: &mut SqliteRequest| request.parameters = SqlParameters::Positional(values.clone());
    let result = run_sql(&path, "SELECT ?1, ?2, ?3, ?4, ?5, typeof(?4), CAST(x'ff' AS TEXT), 9e999, -9e999", bound).unwrap();
    let rest = [json!("blob"), json!({"text_base64": "/w=="}), json!({"real": "inf"}), json!({"real": "-inf"})];
    assert_eq!(result.rows, [[values.clone(), rest.to_vec()].concat()]);
    let named: Map<String, Value> = [("a".to_owned(), json!(1)), ("@b".to_owned(), json!(2))].into_iter().collect();
    let bound = |request: &mut SqliteRequest| request.parameters = SqlParameters::Named(named.clone());
    assert_eq!(run_sql(&path, "SELECT :a, @b, :a", bound).unwrap().rows, [[json!(1), json!(2), json!(1)]]);
}

#[test]
fn wrong_parameters_are_refused() {
    let (_directory, path) = database();
    for (sql, parameters) in [
        ("SELECT ?1", json!([])),
        ("SELECT ?1", json!([1, 2])),
        ("SELECT ?1", json!([true])),
        ("SELECT ?1", json!([u64::MAX])),
        ("SELECT ?1", json!([{"base64": "!"}])),
        ("SELECT :a", json!({})),
        ("SELECT :a", json!({"a": 1, "b": 2})),
        ("SELECT ?", json!({"a": 1})),
    ] {
        let bound = |request: &mut SqliteRequest| request.parameters = serde_json::from_value(parameters.clone()).unwrap();
        assert_eq!(code(&path, sql, bound), ErrorCode::Invalid, "{sql} {parameters}");
    }
}

#[test]
fn statement_that_writes_is_refused_without_permission() {
    let (directory, path) = database();
    let before = fs::read(&path).unwrap();
    for sql in [
        "INSERT INTO t (value) VALUES (1)",
        "UPDATE t SET value = 1",
        "DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE u (a)",
        "CREATE TEMP TABLE u (a)",
        "ALTER TABLE t RENAME TO u",
        "PRAGMA user_version = 5",
        "VACUUM",
        "ANALYZE",
    ] {
        assert_eq!(code(&path, sql, |_| {}), ErrorCode::Sql, "{sql}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn statement_that_leaves_the_database_is_refused_even_with_permission() {
    let (directory, path) = database();
    let other = directory.path().join("other.db");
    fs::copy(&path, &other).unwrap();
    let attach = format!("ATTACH '{}' AS o", other.display());
    let into = format!("VACUUM INTO '{}'", directory.path().join("new.db").display());
    for sql in [
        attach.as_str(),
        into.as_str(),
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('simple')",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = ON",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA user_version = 5",
        "CREATE VIRTUAL TABLE v USING dbstat",
        "BEGIN",
        "DETACH main",
    ] {
        assert_eq!(code(&path, sql, writes), ErrorCode::Sql, "{sql}");
    }
    assert!(!directory.path().join("new.db").exists());
    for sql in ["SELECT 1; SELECT 2", "SELECT 1; x", "", " -- nothing", "CREATE TABLE a (x); INSERT INTO a VALUES (1)"] {
        assert_eq!(code(&path, sql, writes), ErrorCode::Invalid, "{sql}");
    }
    assert_eq!(run_sql(&path, "SELECT count(*) FROM t; -- end\n", |_| {}).unwrap().rows, [[json!(3)]]);
}

#[test]
fn schema_is_described_by_pragmas() {
    let (_directory, path) = database();
    assert_eq!(run_sql(&path, "PRAGMA table_info(t)", |_| {}).unwrap().rows.len(), 2);
    assert_eq!(run_sql(&path, "PRAGMA user_version", |_| {}).unwrap().rows, [[json!(0)]]);
    assert_eq!(run_sql(&path, "PRAGMA quick_check", |_| {}).unwrap().rows, [[json!("ok")]]);
    run_sql(&path, "CREATE VIRTUAL TABLE words USING fts5(text)", writes).unwrap();
    run_sql(&path, "INSERT INTO words VALUES ('one two')", writes).unwrap();
    assert_eq!(run_sql(&path, "SELECT count(*) FROM words('two')", |_| {}).unwrap().rows, [[json!(1)]]);
}

#[test]
fn result_over_a_limit_is_marked() {
    let (_directory, path) = database();
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let result = run_sql(&path, endless, |request| request.max_rows = Some(2)).unwrap();
    assert_eq!((result.rows.len(), result.truncated), (2, Some(Truncation::Count)));
    let result = run_sql(&path, endless, |request| request.max_bytes = Some(100)).unwrap();
    assert_eq!((result.rows.len(), result.truncated), (12, Some(Truncation::Bytes)));
    let never = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
    match run_sql(&path, never, |request| request.time_ms = Some(100)) {
        Ok(result) => assert_eq!((result.rows.len(), result.truncated), (0, Some(Truncation::Time))),
        // On a busy machine, the time is over before the statement begins.
        Err(error) => assert_eq!(error.code, ErrorCode::Limit),
    }
    let insert = "INSERT INTO t (value) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let bounded = |request: &mut SqliteRequest| (request.write, request.time_ms) = (true, Some(50));
    assert_eq!(code(&path, insert, bounded), ErrorCode::Limit);
    assert_eq!(run_sql(&path, "SELECT count(*) FROM t", |_| {}).unwrap().rows, [[json!(3)]]);
    assert_eq!(code(&path, "SELECT randomblob(500000000)", |_| {}), ErrorCode::Limit);
}

#[test]
fn file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "text".repeat(1000)).unwrap();
    assert_eq!(code(&path, "SELECT 1", |_| {}), ErrorCode::Malformed);
    assert_eq!(code(&directory.path().join("missing"), "SELECT 1", |_| {}), ErrorCode::NotFound);
    assert!(!directory.path().join("missing").exists());
    let fifo = directory.path().join("fifo");
    rustix::fs::mkfifoat(CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    for path in [fifo.as_path(), Path::new("/dev/zero"), directory.path()] {
        for write in [false, true] {
            let result = run_sql(path, "SELECT 1", |request| request.write = write);
            assert!(matches!(result.unwrap_err().code, ErrorCode::WrongKind | ErrorCode::Invalid), "{}", path.display());
        }
    }
}

#[test]
fn link_is_resolved_before_the_file_is_opened() {
    let (directory, path) = database();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(run_sql(&link, "SELECT count(*) FROM t", |_| {}).unwrap().rows, [[json!(3)]]);
}

/// Replaces `from` in the file, which has the same length as `to`.
fn patch(path: &Path, from: &[u8], to: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let at = memchr::memmem::find(&bytes, from).unwrap();
    fs::write(path, [&bytes[..at], to, &bytes[at + from.len()..]].concat()).unwrap();
}

#[test]
fn hostile_schema_runs_no_code_and_ends_with_an_error() {
    let (_directory, path) = database();
    let trap = "CREATE VIEW bad AS SELECT load_extension('x'); CREATE VIEW tokens AS SELECT fts3_tokenizer('simple');";
    Connection::open(&path).unwrap().execute_batch(trap).unwrap();
    for sql in ["SELECT * FROM bad", "SELECT * FROM tokens"] {
        assert_eq!(code(&path, sql, |_| {}), ErrorCode::Sql, "{sql}");
    }
    run_sql(&path, "CREATE TABLE ascii_name (aaaa)", writes).unwrap();
    let mut utf8 = path.clone();
    utf8.set_extension("utf8");
    fs::copy(&path, &utf8).unwrap();
    patch(&utf8, b"(aaaa)", b"(a\xff\xfea)");
    assert_eq!(code(&utf8, "SELECT * FROM ascii_name", |_| {}), ErrorCode::Malformed);
    let mut broken = path.clone();
    broken.set_extension("broken");
    fs::copy(&path, &broken).unwrap();
    patch(&broken, b"CREATE TABLE ascii_name", b"CREATE TABLE ascii_nam)");
    assert!(run_sql(&broken, "SELECT * FROM t", |_| {}).is_err());
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_database_does_not_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
            let (_directory, path) = database();
            let mut bytes = fs::read(&path).unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            fs::write(&path, bytes).unwrap();
            for sql in ["SELECT * FROM t", "PRAGMA integrity_check", "UPDATE t SET value = 1", "DELETE FROM t"] {
                run_sql(&path, sql, |request| (request.write, request.time_ms) = (true, Some(1000))).ok();
            }
        }
    }
}
