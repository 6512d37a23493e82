use super::*;
use crate::{
    ChangeKind, CloneResult, FetchResult, FetchedHeader, FollowedRedirect, WatchEnd, WatchResult, WatchedChange, response::*,
};
use std::collections::BTreeSet;

fn manifest(capability: &ToolCapability) -> Value {
    serde_json::from_str(capability.manifest).unwrap()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// Calls `each` with every part of a schema that describes an object with known properties.
fn objects<'a>(schema: &'a Value, each: &mut dyn FnMut(&'a Value)) {
    if schema.get("properties").is_some() {
        each(schema);
    }
    match schema {
        Value::Object(fields) => fields.iter().filter(|(name, _)| *name != "examples").for_each(|(_, part)| objects(part, each)),
        Value::Array(parts) => parts.iter().for_each(|part| objects(part, each)),
        _ => {}
    }
}

/// Returns an object with the first example of every property.
fn example(schema: &Value) -> Value {
    let properties = schema["properties"].as_object().unwrap();
    Value::Object(properties.iter().map(|(name, property)| (name.clone(), property["examples"][0].clone())).collect())
}

#[test]
fn manifest_is_named_after_its_file_and_refuses_other_properties() {
    for capability in &CAPABILITIES {
        let manifest = manifest(capability);
        assert_eq!(manifest["name"], capability.name);
        let annotations = ["destructive", "idempotent", "open_world", "read_only"].map(str::to_owned);
        assert_eq!(keys(&manifest["annotations"]), BTreeSet::from(annotations));
        for part in ["parameters", "result"] {
            objects(&manifest[part], &mut |object| {
                assert_eq!(object["additionalProperties"], json!(false), "{}: {object}", capability.name);
                let required = object["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
                assert!(required.collect::<BTreeSet<_>>().is_subset(&keys(&object["properties"])), "{}", capability.name);
            });
        }
    }
    assert_eq!(ToolCapability::find("fs.read.v1").unwrap().name, "fs.read.v1");
    assert!(ToolCapability::find("fs.read").is_none());
}

#[test]
fn parameters_of_the_schema_are_those_of_the_request() {
    for capability in &CAPABILITIES {
        let schema = &manifest(capability)["parameters"];
        let whole = example(schema);
        capability.call(whole.clone()).unwrap_or_else(|error| panic!("{}: {error}", capability.name));
        let required: BTreeSet<&str> = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        for name in keys(&whole) {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(&name);
            assert_eq!(capability.call(part).is_ok(), !required.contains(name.as_str()), "{}: {name}", capability.name);
        }
        let mut more = whole.clone();
        more["unknown"] = json!(1);
        assert_eq!(capability.call(more).unwrap_err().code, ErrorCode::Invalid, "{}", capability.name);
        for other in [json!(null), json!([]), json!("x")] {
            assert_eq!(capability.call(other).unwrap_err().code, ErrorCode::Invalid, "{}", capability.name);
        }
    }
}

#[test]
fn examples_of_alternatives_are_accepted() {
    for (name, field) in [("fs.read.v1", "range"), ("fs.edit.v1", "edits"), ("sqlite.query.v1", "parameters")] {
        let capability = ToolCapability::find(name).unwrap();
        let schema = &manifest(capability)["parameters"];
        for value in schema["properties"][field]["examples"].as_array().unwrap() {
            let mut parameters = example(schema);
            parameters[field] = value.clone();
            capability.call(parameters).unwrap();
        }
    }
}

/// Returns a response of each operation in which every field has a value.
fn responses() -> Vec<ToolResponse> {
    let mode = serde_json::from_str("\"0644\"").unwrap();
    let (truncated, target) = (Some(Truncation::Bytes), Some(ByteString::from("b")));
    let left_out = LeftOut { hidden: 1, ignored: 1, unreadable: 1 };
    let node = ListedNode { path: "a".into(), kind: NodeKind::Symlink, size: 1, modified_ms: 1, target: target.clone() };
    let line = FoundLine { path: "a".into(), line: 1, text: "x".into(), matches: true, cut: true };
    let member = ArchiveMember {
        path: "a".into(),
        kind: NodeKind::HardLink,
        size: 1,
        target: target.clone(),
        refused: Some("no".to_owned()),
    };
    vec![
        ToolResponse::Archive(ArchiveResult { format: "zip".to_owned(), entries: vec![member], count: 1, bytes: 1, truncated }),
        ToolResponse::Edit(EditResult { replaced: 1, size: 1, diff_truncated: truncated }),
        ToolResponse::List(ListResult { entries: vec![node], left_out, truncated }),
        ToolResponse::Move(MoveResult { copied: true }),
        ToolResponse::Read(ReadResult { size: 1, offset: 1, length: 1, first_line: Some(1), truncated }),
        ToolResponse::Remove(RemoveResult { removed: true }),
        ToolResponse::Search(SearchResult { lines: vec![line], matches: 1, files: 1, binary: 1, left_out, truncated }),
        ToolResponse::Stat(StatResult { kind: NodeKind::Symlink, size: 1, mode, uid: 1, gid: 1, modified_ms: 1, target }),
        ToolResponse::Watch(WatchResult {
            events: vec![WatchedChange { kind: ChangeKind::Renamed, path: "a".into(), from: Some("b".into()), directory: false }],
            directories: 1,
            unwatched: 1,
            overflow: true,
            ended: WatchEnd::Time,
        }),
        ToolResponse::Write(WriteResult { written: 1, size: 1, created: true, mode }),
        ToolResponse::Clone(CloneResult { commit: Some("0".repeat(40)), branch: Some("main".to_owned()), shallow: false }),
        ToolResponse::Fetch(FetchResult {
            status: 200,
            url: "https://a.example/".to_owned(),
            headers: vec![FetchedHeader { name: "a".to_owned(), value: "b".into() }],
            redirects: vec![FollowedRedirect { status: 302, url: "https://a.example/x".to_owned() }],
            length: 1,
            truncated,
        }),
        ToolResponse::Sqlite(SqliteResult { columns: vec!["a".to_owned()], rows: vec![vec![json!(1)]], changes: 1, truncated }),
    ]
}

#[test]
fn result_has_the_properties_of_its_schema() {
    for (capability, response) in CAPABILITIES.iter().zip(responses()) {
        let manifest = manifest(capability);
        let call = capability.call(example(&manifest["parameters"])).unwrap();
        let result = call.result(response, b"content".to_vec()).unwrap();
        let schema = &manifest["result"];
        assert_eq!(keys(&result), keys(&schema["properties"]), "{}", capability.name);
        for name in ["entries", "lines", "events", "headers", "redirects"] {
            if let Some(entry) = result.get(name).and_then(|entries| entries.get(0)) {
                assert_eq!(keys(entry), keys(&schema["properties"][name]["items"]["properties"]), "{}", capability.name);
            }
        }
        if let Some(left_out) = result.get("left_out") {
            assert_eq!(keys(left_out), keys(&schema["properties"]["left_out"]["properties"]), "{}", capability.name);
        }
    }
}

#[test]
fn response_of_another_operation_is_refused() {
    let capability = ToolCapability::find("fs.read.v1").unwrap();
    let call = capability.call(json!({"path": "/a"})).unwrap();
    for response in responses().into_iter().filter(|response| !matches!(response, ToolResponse::Read(_))) {
        assert_eq!(call.result(response, Vec::new()).unwrap_err().code, ErrorCode::Malformed);
    }
}

#[test]
fn content_is_text_only_if_it_is_utf_8() {
    let capability = ToolCapability::find("fs.read.v1").unwrap();
    let response = || ToolResponse::Read(ReadResult { size: 2, offset: 0, length: 2, first_line: None, truncated: None });
    let result = |encoding: &str, content: &[u8]| {
        let call = capability.call(json!({"path": "/a", "encoding": encoding})).unwrap();
        call.result(response(), content.to_vec()).map(|result| (result["encoding"].clone(), result["content"].clone()))
    };
    assert_eq!(result("auto", b"a\n").unwrap(), (json!("text"), json!("a\n")));
    assert_eq!(result("auto", b"\xff").unwrap(), (json!("base64"), json!("/w==")));
    assert_eq!(result("base64", b"a").unwrap(), (json!("base64"), json!("YQ==")));
    assert_eq!(result("text", b"\xff").unwrap_err().code, ErrorCode::Malformed);
    let write = ToolCapability::find("fs.write.v1").unwrap();
    assert_eq!(write.call(json!({"path": "/a", "content": {"base64": "/w=="}})).unwrap().content, b"\xff");
}
