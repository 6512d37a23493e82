//! Every operation works in every backend, and its bytes are exact.

use crate::{Place, support, table};
use agentd::isolation::{Command, EndReason};
use agentd::tool::{
    ChangeKind, Disposition, EditRequest, ErrorCode, ListRequest, MoveRequest, NodeKind, ReadRange, ReadRequest, RemoveRequest,
    SearchRequest, SqliteRequest, StatRequest, TextEdit, ToolRequest, ToolResponse, WatchEnd, WatchRequest, WriteRequest,
};
use libtest_mimic::Trial;
use serde_json::json;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table![
        backend,
        every_operation_works,
        content_and_names_are_exact,
        databases_are_queried_and_changed,
        watch_reports_changes_by_concurrent_payload,
    ]
}

fn read(path: &str) -> ToolRequest {
    ToolRequest::Read(ReadRequest { path: path.into(), ..ReadRequest::default() })
}

fn write(path: &str) -> ToolRequest {
    ToolRequest::Write(WriteRequest {
        path: path.into(),
        disposition: Disposition::Create,
        parents: true,
        ..WriteRequest::default()
    })
}

async fn every_operation_works(backend: &'static str) {
    let place = Place::new(backend).await;
    place.call(write("src/a.rs"), b"one\ntwo\nthree\n").await.unwrap();
    assert_eq!(place.code(write("src/a.rs")).await, ErrorCode::AlreadyExists);

    let range = Some(ReadRange::Lines { first: 2, count: Some(1) });
    let part = ReadRequest { path: "src/a.rs".into(), range, max_bytes: None };
    assert_eq!(place.call(ToolRequest::Read(part), b"").await.unwrap().content, b"two\n");

    let edits = vec![TextEdit::Literal { old: "two".into(), new: "2".into(), all: false }];
    let edit = EditRequest { path: "src/a.rs".into(), edits, ..EditRequest::default() };
    let output = place.call(ToolRequest::Edit(edit.clone()), b"").await.unwrap();
    assert!(output.content.ends_with(b"@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"), "{}", output.content.escape_ascii());
    assert_eq!(place.code(ToolRequest::Edit(edit)).await, ErrorCode::NoMatch);

    let list = ListRequest { path: ".".into(), depth: Some(3), ..ListRequest::default() };
    let ToolResponse::List(listed) = place.call(ToolRequest::List(list), b"").await.unwrap().response else { panic!() };
    assert_eq!(listed.entries.iter().map(|entry| entry.path.as_bytes()).collect::<Vec<_>>(), [&b"src"[..], b"src/a.rs"]);

    let search = SearchRequest { path: ".".into(), pattern: "^t.*e$".to_owned(), ..SearchRequest::default() };
    let ToolResponse::Search(found) = place.call(ToolRequest::Search(search), b"").await.unwrap().response else { panic!() };
    assert_eq!((found.matches, found.lines[0].line, found.lines[0].text.as_bytes()), (1, 3, &b"three"[..]));

    let stat = StatRequest { path: "src".into(), follow: false };
    let ToolResponse::Stat(described) = place.call(ToolRequest::Stat(stat), b"").await.unwrap().response else { panic!() };
    assert_eq!(described.kind, NodeKind::Directory);

    let rename = |from: &str, to: &str| ToolRequest::Move(MoveRequest { from: from.into(), to: to.into(), replace: false });
    place.call(rename("src/a.rs", "b.rs"), b"").await.unwrap();
    place.call(write("src/below/c.rs"), b"c").await.unwrap();
    assert_eq!(place.code(rename("b.rs", "src/below/c.rs")).await, ErrorCode::AlreadyExists);
    assert_eq!(place.code(rename("src/below", "b.rs")).await, ErrorCode::AlreadyExists);
    place.call(rename("src/below", "src/new"), b"").await.unwrap();
    assert_eq!(std::fs::read(place.path().join("src/new/c.rs")).unwrap(), b"c");
    assert!(!place.path().join("src/below").exists());
    let remove = RemoveRequest { path: "src".into(), recursive: true, missing_ok: false };
    place.call(ToolRequest::Remove(remove.clone()), b"").await.unwrap();
    assert_eq!(place.code(ToolRequest::Remove(remove)).await, ErrorCode::NotFound);
    assert_eq!(place.call(read("b.rs"), b"").await.unwrap().content, b"one\n2\nthree\n");
    // The files are those of the grant.
    assert_eq!(std::fs::read(place.path().join("b.rs")).unwrap(), b"one\n2\nthree\n");
    assert!(!place.path().join("src").exists());
    place.end().await;
}

async fn content_and_names_are_exact(backend: &'static str) {
    let place = Place::new(backend).await;
    let content = b"'\"$(touch x)`\\*?[a]\0\xff\r\n".repeat(10_000);
    assert!(content.len() > 200_000);
    for name in ["--help", "-rf", "a b'\"", "new\nline", "$(touch x)", "*"] {
        place.call(write(name), &content).await.unwrap();
        let output = place.call(read(name), b"").await.unwrap();
        assert!(output.content == content, "{name}");
        assert!(std::fs::read(place.path().join(name)).unwrap() == content, "{name}");
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 6);
    place.call(write("empty"), b"").await.unwrap();
    assert_eq!(place.call(read("empty"), b"").await.unwrap().content, b"");
    assert_eq!(place.code(read("missing")).await, ErrorCode::NotFound);
    place.end().await;
}

async fn databases_are_queried_and_changed(backend: &'static str) {
    let place = Place::new(backend).await;
    let sql = |text: &str, write| {
        ToolRequest::Sqlite(SqliteRequest { path: "data.db".into(), sql: text.to_owned(), write, ..SqliteRequest::default() })
    };
    place.call(sql("CREATE TABLE t (a)", true), b"").await.unwrap();
    place.call(sql("INSERT INTO t VALUES (1), ('x')", true), b"").await.unwrap();
    assert_eq!(place.code(sql("DELETE FROM t", false)).await, ErrorCode::Sql);
    assert_eq!(place.code(sql("ATTACH '/tmp/other' AS o", true)).await, ErrorCode::Sql);
    let ToolResponse::Sqlite(result) = place.call(sql("SELECT a FROM t", false), b"").await.unwrap().response else { panic!() };
    assert_eq!(result.rows, [[json!(1)], [json!("x")]]);
    place.end().await;
}

async fn watch_reports_changes_by_concurrent_payload(backend: &'static str) {
    let place = Place::private(backend).await;
    place.payload("mkdir -p src/deep \"$PWD.out\" && ln -s \"$PWD.out\" link").await;
    // The payload repeats its changes, because nothing says when the watch begins.
    let busy = "while :; do echo x >src/deep/a && mv src/deep/a src/b && rm src/b && touch link/elsewhere; done";
    let command = Command { cwd: Some(place.path().to_owned()), ..support::script(busy) };
    let mut payload = place.sandbox.exec_streaming(command).await.unwrap();
    let request =
        WatchRequest { path: ".".into(), recursive: true, glob: Vec::new(), max_events: Some(40), time_ms: Some(600_000) };
    let output = place.call(ToolRequest::Watch(request.clone()), b"").await.unwrap();
    let ToolResponse::Watch(seen) = output.response else { panic!() };
    assert_eq!((seen.events.len(), seen.directories, seen.ended), (40, 3, WatchEnd::Count), "{seen:?}");
    let renamed = seen.events.iter().filter(|change| change.kind == ChangeKind::Renamed);
    assert!(renamed.clone().count() > 0 && renamed.clone().all(|change| change.from == Some("src/deep/a".into())), "{seen:?}");
    // Nothing behind the link is watched.
    assert!(seen.events.iter().all(|change| change.path.as_bytes().starts_with(b"src/")), "{seen:?}");
    let through = WatchRequest { path: "link".into(), ..request.clone() };
    assert_eq!(place.code(ToolRequest::Watch(through)).await, ErrorCode::Outside);
    payload.end(EndReason::Cancelled).await.unwrap();
    payload.wait().await.unwrap();
    let quiet = WatchRequest { time_ms: Some(1), ..request };
    let ToolResponse::Watch(seen) = place.call(ToolRequest::Watch(quiet), b"").await.unwrap().response else { panic!() };
    assert_eq!(seen.ended, WatchEnd::Time, "{seen:?}");
    place.payload("rm -r \"$PWD.out\"").await;
    place.end().await;
}
