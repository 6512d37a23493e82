//! Tests of manifests.

use super::*;
use crate::capability::RequestedPty;

const COUNT: &str = r#"
name = "text.count"
version = 1
description = "Counts lines."

[annotations]
read_only = true

[sandbox]
workspace = "read-only"

[limits]
timeout = "10s"
memory = "64M"

[run]
argv = ["wc", "-l", "--", { parameter = "file" }]

[parameters]
type = "object"
additionalProperties = false
required = ["file"]
properties.file = { type = "string", minLength = 1 }
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(COUNT.contains(from), "{from}");
    Capability::parse(&COUNT.replace(from, to)).unwrap_err().to_string()
}

#[test]
fn manifest_states_the_whole_capability() {
    let capability = Capability::parse(COUNT).unwrap();
    assert_eq!(capability.id(), "text.count.v1");
    assert_eq!(capability.bounds.limits.wall, Some(std::time::Duration::from_secs(10)));
    assert_eq!(capability.bounds.workspace, WorkspaceAccess::ReadOnly);
    assert_eq!(capability.bounds.network, NetworkBound::none());
    assert!(capability.annotations.read_only && !capability.annotations.destructive);
    assert_ne!(capability.digest, Capability::parse(&COUNT.replace("10s", "11s")).unwrap().digest);
}

#[test]
fn unknown_keys_and_parts_that_do_not_fit_are_refused() {
    for (from, to, cause) in [
        ("version = 1", "version = 1\nshell = true", "unknown field `shell`"),
        ("version = 1", "version = 0", "version"),
        ("timeout = \"10s\"", "timeout = \"soon\"", "limits: 'soon' is not a duration"),
        ("timeout = \"10s\"", "time = \"10s\"", "unknown field `time`"),
        ("argv = [", "shell = \"x\"\nargv = [", "unknown field `shell`"),
        ("parameter = \"file\"", "parameter = \"other\"", "the schema has no such property"),
        ("workspace = \"read-only\"", "workspace = \"read-write\"", "read-only operation"),
        ("workspace = \"read-only\"", "egress = [\"a.example\"]", "open-world"),
        ("workspace = \"read-only\"", "egress = [\"*\"]\n", "egress"),
        ("additionalProperties = false", "", "additionalProperties"),
        ("additionalProperties = false", "additionalProperties = true", "additionalProperties"),
        ("[run]", "[run]\noutput = \"json\"", "result: state a schema"),
        ("[run]", "[run]\nstdin = { text = \"input\" }", "stdin: the schema must have a property \"input\""),
        ("[run]", "[run]\nenv = \"file\"", "env: the schema must have a property \"file\" of type object"),
    ] {
        let refused = refusal(from, to);
        assert!(refused.contains(cause), "{to}: {refused}");
    }
    for name in ["count", "Text.count", "text..count", "text.count.v1", "text.co-unt", "../etc", "text.1"] {
        assert!(refusal("text.count", name).contains("words of lower-case letters"), "{name}");
    }
}

#[test]
fn arguments_and_input_are_filled_from_parameters() {
    let text = COUNT
        .replace("[run]", "[run]\ncwd = \"dir\"\ntimeout = \"ms\"\nenv = \"env\"\nstdin = { text = \"in\", base64 = \"b\" }");
    let more = "properties.dir = { type = \"string\" }\nproperties.ms = { type = \"integer\" }\nproperties.in = { type = \"string\" }\n\
                properties.b = { type = \"string\" }\n\
                properties.env = { type = \"object\", additionalProperties = { type = \"string\" } }\n";
    let Run::Command(template) = Capability::parse(&(text + more)).unwrap().run else { panic!("no command") };
    let fill = |parameters: Value| template.fill(parameters.as_object().unwrap());
    let parameters = serde_json::json!({ "file": "f", "dir": "d", "ms": 20, "b": "AP8=", "env": { "A": "b" } });
    let command = fill(parameters).unwrap();
    assert_eq!(command.argv, ["wc", "-l", "--", "f"]);
    assert_eq!((command.cwd.as_deref(), &command.stdin[..]), (Some("d"), &[0, 255][..]));
    assert_eq!(command.env, [("A".to_owned(), "b".to_owned())]);
    assert_eq!(command.timeout, Some(std::time::Duration::from_millis(20)));
    for (parameters, pointer) in [
        (serde_json::json!({ "file": "f", "in": "x", "b": "" }), "/b"),
        (serde_json::json!({ "file": "f", "b": "?" }), "/b"),
        (serde_json::json!({ "file": "f", "env": { "A=B": "" } }), "/env"),
        (serde_json::json!({ "file": "f", "dir": "" }), "/dir"),
        (serde_json::json!({ "file": "f", "ms": 0 }), "/ms"),
        (serde_json::json!({ "file": "-f" }), "/file"),
    ] {
        assert_eq!(fill(parameters).unwrap_err().pointer, pointer);
    }
}

#[test]
fn terminals_streamed_input_and_sessions_come_from_parameters() {
    let registry = crate::capability::CapabilityRegistry::built_in().unwrap();
    let template = |name: &str| match &registry.find(name).unwrap().run {
        Run::Command(template) => template,
        Run::Tool(_) | Run::Sandbox(_) => panic!("{name} is a command"),
    };
    let fill = |parameters: Value| template("shell.exec.v1").fill(parameters.as_object().unwrap()).unwrap();
    let command = fill(serde_json::json!({ "command": "a", "pty": { "rows": 5 }, "stdin_stream": true }));
    assert_eq!((command.pty, command.stream_stdin), (Some(RequestedPty { rows: Some(5), cols: None }), true));
    let command = fill(serde_json::json!({ "command": "a", "stdin_stream": false }));
    assert_eq!((command.pty, command.stream_stdin), (None, false));
    let session = |parameters: Value| template("code.run.v1").session(parameters.as_object().unwrap()).unwrap();
    assert_eq!(session(serde_json::json!({ "language": "bash", "source": "a" })), None);
    let cell = session(serde_json::json!({ "language": "bash", "source": "a", "session": "s", "timeout_ms": 5 })).unwrap();
    assert_eq!((&*cell.handle, &*cell.language, &*cell.source), ("s", "bash", "a"));
    assert_eq!(cell.timeout, Some(std::time::Duration::from_millis(5)));
    assert!(!format!("{cell:?}").contains("\"a\""));
}
