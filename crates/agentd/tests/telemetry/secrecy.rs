//! Secrets, parameters and contents are in no log, span, metric, record or state.

use crate::{
    collector::Collector,
    place::{Place, object},
};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A text that is nowhere else.
const CANARY: &str = "c4n4ry-7d1f3b";

/// Returns a canary for one of the places where secrets come from.
fn canary(of: &str) -> String {
    format!("{CANARY}-{of}")
}

/// Returns true if the bytes contain a canary: as it is, or in one of the usual encodings.
fn has_canary(bytes: &[u8]) -> bool {
    // In BASE64, three bytes become four digits, and the digits depend on the offset: the middle of each is compared.
    let encoded = (0..3).map(|offset| {
        let text = BASE64.encode(format!("{}{CANARY}", "-".repeat(offset)).as_bytes());
        text[4..text.len() - 4].to_owned()
    });
    let needles = encoded.chain([CANARY.to_owned(), HEXLOWER.encode(CANARY.as_bytes())]);
    needles.into_iter().any(|needle| bytes.windows(needle.len()).any(|window| window == needle.as_bytes()))
}

/// Returns the files below a directory that contain a canary, or have one in their name.
fn files_with_canary(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            found.extend(files_with_canary(&path));
        } else if kind.is_file() && has_canary(&fs::read(&path).unwrap()) {
            found.push(path.clone());
        }
        if has_canary(path.file_name().unwrap().as_encoded_bytes()) {
            found.push(path);
        }
    }
    found
}

/// The calls: each has canaries in its parameters, in files, or in its output, and some fail.
fn calls() -> Vec<(&'static str, Value, i32)> {
    let environment = json!({ "TOKEN": canary("environment") });
    let script = format!("cat; cat file; echo $TOKEN >&2; echo {}", canary("command"));
    vec![
        ("shell.exec.v1", json!({ "command": script, "stdin": canary("stdin"), "env": environment }), 0),
        ("shell.exec.v1", json!({ "argv": [canary("program")] }), 127),
        ("shell.exec.v1", json!({ "command": 1, canary("unknown"): canary("value") }), 77),
        ("fs.write.v1", json!({ "path": "other", "content": canary("content") }), 0),
        ("fs.read.v1", json!({ "path": "file" }), 0),
        ("fs.read.v1", json!({ "path": canary("path") }), 1),
        ("code.run.v1", json!({ "language": "bash", "source": format!("echo {}", canary("source")) }), 0),
    ]
}

#[test]
fn search_finds_canaries_in_every_encoding() {
    for (text, found) in [
        (canary("x"), true),
        (BASE64.encode(format!("ab{}", canary("x")).as_bytes()), true),
        (BASE64.encode(format!("a{}", canary("x")).as_bytes()), true),
        (BASE64.encode(canary("x").as_bytes()), true),
        (HEXLOWER.encode(canary("x").as_bytes()), true),
        ("c4n4ry".to_owned(), false),
        (BASE64.encode(b"something else"), false),
    ] {
        assert_eq!(has_canary(text.as_bytes()), found, "{text}");
    }
}

#[test]
fn secrets_parameters_and_contents_are_in_no_log_span_metric_record_or_state() {
    let (place, collector) = (Place::new(), Collector::answering("200 OK"));
    fs::write(place.path("work/file"), canary("file")).unwrap();
    for format in ["text", "json"] {
        for (capability, parameters, code) in calls() {
            let options = ["--metrics", "../metrics", "--receipt", "../receipt"];
            let mut command = place.call(capability, &parameters, &options);
            command.env("AGENTD_LOG", "trace").env("AGENTD_LOG_FORMAT", format).env("SECRET", canary("own"));
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint);
            command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={}", canary("header")));
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{capability} {parameters}: {output:?}");
            let told = object(&output);
            let (head, body) = collector.request();
            assert!(head.contains(&canary("header")), "the collector gets the header");
            assert!(body.contains("\"intent\"") && !has_canary(body.as_bytes()), "{capability} {parameters}: {body}");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(log.contains("agentd"), "the log is on: {output:?}");
            assert!(!has_canary(log.as_bytes()), "{capability} {parameters}: {log}");
            for name in ["metrics", "receipt", "receipt.intent"] {
                let text = fs::read(place.path(name)).unwrap();
                assert!(!text.is_empty() && !has_canary(&text), "{capability} {parameters}: {name}");
            }
            // The audit log, the state and everything else that agentd keeps.
            assert_eq!(files_with_canary(&place.path("data")), Vec::<PathBuf>::new(), "{capability} {parameters}: {told:#}");
        }
    }
    assert!(place.path("data/records/audit/checkpoint").exists() && place.path("data/state").exists());
}
