//! Long outputs: cut for a model, and the whole by handle and cursor.

use crate::client::{Client, Era, User};
use serde_json::{Value, json};
use std::fs;

/// Reads the whole text of a cut part.
fn whole(client: &mut Client, handle: &Value, mut cursor: u64) -> String {
    let mut text = String::new();
    loop {
        let part = client.call("output_read", json!({ "handle": handle, "cursor": cursor }))["structuredContent"].clone();
        assert_eq!(part["cursor"], cursor);
        text.push_str(part["text"].as_str().unwrap());
        match part["next_cursor"].as_u64() {
            Some(next) => cursor = next,
            None => return text,
        }
    }
}

#[test]
fn long_output_has_head_tail_and_mark_and_the_rest_by_handle() {
    let user = User::new();
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    let content = client.shell("seq 1 100000");
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let shown = content["result"]["stdout"]["text"].as_str().unwrap();
    assert!(shown.starts_with("1\n2\n") && shown.ends_with("99999\n100000\n") && shown.len() < 16 << 10, "{}", shown.len());
    let cut = &content["cut"][0];
    assert_eq!((&cut["path"], &cut["bytes"]), (&json!("/result/stdout/text"), &json!(expected.len())));
    assert!(shown.contains(&format!("output_read with handle {} and cursor {}", cut["handle"], cut["cursor"])), "{shown}");
    assert_eq!(whole(&mut client, &cut["handle"], 0), expected);
    let cursor = cut["cursor"].as_u64().unwrap();
    let rest = whole(&mut client, &cut["handle"], cursor);
    assert_eq!(rest, expected[usize::try_from(cursor).unwrap()..]);
}

#[test]
fn long_list_and_long_file_are_cut_too() {
    let user = User::new();
    for n in 0..1_500 {
        fs::write(user.path("work").join(format!("file-{n:05}")), "").unwrap();
    }
    fs::write(user.path("work/long"), "é\n".repeat(40_000)).unwrap();
    let mut client = Client::start(&user, Era::New);
    let listed = client.call("fs_list_v1", json!({ "path": "." }))["structuredContent"].clone();
    let text = whole(&mut client, &listed["cut"][0]["handle"], 0);
    assert!(text.contains("file-00750") && text.lines().count() > 1_000);
    let shown = listed["result"]["entries"].to_string();
    assert!(shown.contains("file-00000") && shown.len() < 16 << 10);
    let read = client.call("fs_read_v1", json!({ "path": "long" }))["structuredContent"].clone();
    assert_eq!(whole(&mut client, &read["cut"][0]["handle"], 0), "é\n".repeat(40_000));
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let user = User::new();
    let mut client = Client::start(&user, Era::New);
    let content = client.shell(r"printf '\377\000\033[2J'");
    assert_eq!(content["result"]["stdout"]["utf8"], false);
    assert_eq!(content["result"]["stdout"]["bytes"], 6);
}

#[test]
fn unknown_handles_and_wrong_cursors_are_failures_of_the_tool() {
    let user = User::new();
    let mut client = Client::start(&user, Era::New);
    for arguments in [
        json!({}),
        json!({ "handle": 1 }),
        json!({ "handle": "0123456789abcdef0123456789abcdef" }),
        json!({ "handle": "x", "cursor": -1 }),
        json!({ "handle": "x", "cursor": "0" }),
        json!({ "handle": "x".repeat(1 << 20) }),
    ] {
        let result = client.call("output_read", arguments);
        assert_eq!(result["isError"], true, "{result:#}");
    }
}
