//! The process of an operation has limits, and its reply is not trusted.

use crate::{Place, table};
use agentd::{
    isolation::{Command, EndReason, Limits},
    tool::{CallError, CallOptions, SqliteRequest, ToolCall, ToolRequest, WriteRequest, call},
};
use libtest_mimic::Trial;
use std::time::Duration;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    table![backend, operation_over_a_limit_ends_with_the_reason, process_without_a_call_sends_no_reply]
}

async fn operation_over_a_limit_ends_with_the_reason(backend: &'static str) {
    let place = Place::new(backend).await;
    let write = WriteRequest { path: "data.db".into(), ..WriteRequest::default() };
    place.call(ToolRequest::Write(write), b"").await.unwrap();
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
    let path = place.path().join("data.db");
    let request = SqliteRequest {
        path: path.as_path().into(),
        sql: endless.to_owned(),
        time_ms: Some(600_000),
        ..SqliteRequest::default()
    };
    let whole = ToolCall { within: None, request: ToolRequest::Sqlite(request) };
    let limits = Limits { wall: Some(Duration::from_millis(500)), ..Limits::default() };
    let ended = call(&*place.sandbox, &whole, b"", CallOptions { limits, ..CallOptions::default() }).await;
    assert!(matches!(ended, Err(CallError::Ended { reason: EndReason::WallDeadline, .. })), "{ended:?}");
    place.end().await;
}

async fn process_without_a_call_sends_no_reply(backend: &'static str) {
    let place = Place::new(backend).await;
    let outcome = place.sandbox.exec_tool(Command { argv: vec!["/bin/sh".into()], ..Command::default() }).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.stdout.total()), (Some(125), 0), "{outcome:?}");
    place.end().await;
}
