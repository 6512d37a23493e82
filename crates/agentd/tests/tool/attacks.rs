//! Operations in directories that a payload has prepared, or changes at the same time.

use crate::{Place, support, table};
use agentd::{
    isolation::{Command, EndReason},
    tool::{
        EditRequest, ErrorCode, ListRequest, ReadRequest, RemoveRequest, SearchRequest, SqliteRequest, TextEdit, ToolRequest,
        ToolResponse, WriteRequest,
    },
};
use libtest_mimic::Trial;

/// Attempts while a payload exchanges a directory with a link.
const ATTEMPTS: u32 = 60;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table![
        backend,
        link_of_payload_does_not_lead_out,
        concurrently_replaced_path_does_not_lead_out,
        fifo_of_payload_is_refused_without_waiting,
    ]
}

/// Returns one request of each operation that opens `path`.
fn requests(path: &str) -> Vec<ToolRequest> {
    let edits = vec![TextEdit::Lines { first: 1, last: 0, new: "x\n".into() }];
    vec![
        ToolRequest::Read(ReadRequest { path: path.into(), ..ReadRequest::default() }),
        ToolRequest::Write(WriteRequest { path: path.into(), ..WriteRequest::default() }),
        ToolRequest::Edit(EditRequest { path: path.into(), edits, ..EditRequest::default() }),
        ToolRequest::Search(SearchRequest { path: path.into(), pattern: "x".to_owned(), ..SearchRequest::default() }),
        ToolRequest::Sqlite(SqliteRequest { path: path.into(), sql: "SELECT 1".to_owned(), ..SqliteRequest::default() }),
    ]
}

async fn link_of_payload_does_not_lead_out(backend: &'static str) {
    let place = Place::private(backend).await;
    place
        .payload("ln -s /etc/passwd file && ln -s / root && ln -s /proc/self/root magic && mkdir sub && ln -s ../.. sub/up")
        .await;
    for path in ["file", "root/etc/passwd", "magic/etc/passwd", "sub/up/x", "/etc/passwd", "../x"] {
        for request in requests(path) {
            assert_eq!(place.code(request.clone()).await, ErrorCode::Outside, "{request:?}");
        }
    }
    // Lists and removals do not follow links.
    let list = ListRequest { path: ".".into(), depth: Some(9), ..ListRequest::default() };
    let ToolResponse::List(listed) = place.call(ToolRequest::List(list), b"").await.unwrap().response else { panic!() };
    assert_eq!(listed.entries.len(), 5, "{listed:?}");
    let remove = RemoveRequest { path: "root".into(), recursive: true, missing_ok: false };
    place.call(ToolRequest::Remove(remove), b"").await.unwrap();
    place.payload("test -e /etc && test ! -L root && test -L file").await;
    place.end().await;
}

async fn concurrently_replaced_path_does_not_lead_out(backend: &'static str) {
    let place = Place::private(backend).await;
    place.payload("mkdir dir && printf inside >dir/passwd").await;
    let exchange = "while :; do mv dir aside && ln -s /etc dir && rm dir && mv aside dir; done";
    let command = Command { cwd: Some(place.path().to_owned()), ..support::script(exchange) };
    let mut payload = place.sandbox.exec_streaming(command).await.unwrap();
    for _ in 0..ATTEMPTS {
        let request = ReadRequest { path: "dir/passwd".into(), ..ReadRequest::default() };
        match place.call(ToolRequest::Read(request), b"").await {
            Ok(output) => assert_eq!(output.content, b"inside"),
            Err(error) => {
                let expected = [ErrorCode::Outside, ErrorCode::NotFound, ErrorCode::WrongKind, ErrorCode::System];
                assert!(expected.contains(&error.code), "{error:?}");
            }
        }
    }
    payload.end(EndReason::Cancelled).await.unwrap();
    payload.wait().await.unwrap();
    place.end().await;
}

async fn fifo_of_payload_is_refused_without_waiting(backend: &'static str) {
    let place = Place::private(backend).await;
    place.payload("mkfifo fifo").await;
    for request in requests("fifo") {
        assert_eq!(place.code(request.clone()).await, ErrorCode::WrongKind, "{request:?}");
    }
    let search = SearchRequest { path: ".".into(), pattern: "x".to_owned(), ..SearchRequest::default() };
    let ToolResponse::Search(found) = place.call(ToolRequest::Search(search), b"").await.unwrap().response else { panic!() };
    assert_eq!((found.files, found.matches), (0, 0));
    place.end().await;
}
