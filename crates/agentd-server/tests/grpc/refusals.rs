//! Requests that are refused, and the table of codes.

use crate::place::{Place, call_error, shell};
use agentd_client::v1;
use agentd_proto::refusals::CODES;
use serde_json::json;
use std::{fs, path::Path};
use tonic::Code;

#[tokio::test]
async fn violations_of_the_schema_name_the_values() {
    let place = Place::new().await;
    let request = agentd_client::request("shell.exec.v1", &json!({ "command": 1, "unknown": true })).unwrap();
    let refused = call_error(place.operator().await.execute(request).await);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, "invalid-parameters"));
    assert!(refused.fields.iter().any(|field| field.field == "parameters_json/command"), "{refused:?}");
    assert_eq!(refused.intent.unwrap().len(), 32);
}

#[tokio::test]
async fn refusals_have_the_codes_of_the_table() {
    let place = Place::with_quotas("[principal.\"user:uid:8\"]\nrate = \"1/h\"\n").await;
    let client = place.operator().await;
    let refused = async |request| {
        let error = call_error(client.execute(request).await);
        (error.code, error.reason)
    };
    let unknown = v1::ExecuteRequest { capability: "none.v1".to_owned(), ..Default::default() };
    assert_eq!(refused(unknown).await, (Code::NotFound, "unknown-capability".to_owned()));
    let network = Some(v1::Network { allow: vec!["example.com".to_owned()] });
    let excess = v1::ExecuteRequest { network, ..shell("x") };
    assert_eq!(refused(excess).await, (Code::PermissionDenied, "exceeds-policy".to_owned()));
    let workspace = Some(v1::Workspace { path: "relative".to_owned(), read_only: false });
    let invalid = v1::ExecuteRequest { workspace, ..shell("x") };
    assert_eq!(refused(invalid).await, (Code::InvalidArgument, "invalid-workspace".to_owned()));
    let user = place.user(8).await;
    let workspace = Some(v1::Workspace { path: "/etc".to_owned(), read_only: true });
    let unlisted = call_error(user.execute(v1::ExecuteRequest { workspace, ..shell("x") }).await);
    assert_eq!((unlisted.code, unlisted.reason.as_str()), (Code::PermissionDenied, "unlisted-workspace"));
    user.execute(shell("x")).await.unwrap();
    let quota = call_error(user.execute(shell("x")).await);
    assert_eq!((quota.code, quota.reason.as_str()), (Code::ResourceExhausted, "quota-exceeded"));
    assert!(quota.retry_after.is_some_and(|wait| wait.as_secs() > 1));
}

#[test]
fn documented_codes_are_those_of_the_code() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/grpc.md");
    let page = fs::read_to_string(page).unwrap();
    let row = |line: &str| {
        let (reason, rest) = line.strip_prefix("| `")?.split_once("` | `")?;
        let (code, _) = rest.split_once("` |")?;
        Some((reason.to_owned(), code.to_owned()))
    };
    let codes = |(reason, code): &(&str, Code)| ((*reason).to_owned(), screaming(&format!("{code:?}")));
    let documented: Vec<_> = page
        .lines()
        .filter_map(row)
        .filter(|(_, code)| code.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_'))
        .collect();
    assert_eq!(documented, CODES.iter().map(codes).collect::<Vec<_>>());
}

/// Returns `NOT_FOUND` for `NotFound`.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}
