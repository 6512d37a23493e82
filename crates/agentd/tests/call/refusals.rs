//! What a caller reads about a request that is refused.

use super::User;
use serde_json::{Value, json};

fn message(object: &Value) -> &str {
    object["error"]["message"].as_str().unwrap()
}

#[test]
fn workspace_of_a_capability_without_one_is_refused() {
    let user = User::new();
    let parameters = json!({ "url": "http://a.example/" }).to_string();
    for options in [&["--workspace", "."][..], &["--workspace-ro"]] {
        let output = user.run(&[&["call", "http.fetch.v1", "--params", &parameters], options].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(
            said.contains("the capability http.fetch.v1 works in no directory of the host — leave out --workspace"),
            "{said}"
        );
    }
    let (_, object) = user.call("http.fetch.v1", &json!({ "url": "http://127.0.0.1/" }), &["--workspace", "none"]);
    assert_eq!(object["reason"], "invalid-network", "{object:#}");
}

#[test]
fn unknown_backend_and_bounds_of_the_capability_are_not_blamed_on_the_policies() {
    let user = User::new();
    let (code, object) = user.shell("true", &["--backend", "nosuch"]);
    assert_eq!(code, 77, "{object:#}");
    assert!(message(&object).starts_with("backend \"nosuch\": it does not exist or has no boundary — use one of "), "{object:#}");
    let (code, object) = user.call("fs.stat.v1", &json!({ "path": "." }), &["--net", "allow=a.example"]);
    assert_eq!(code, 77, "{object:#}");
    assert!(message(&object).starts_with("request exceeds the capability: egress a.example, permitted: nothing"), "{object:#}");
}

#[test]
fn problem_of_each_policy_has_a_line_of_its_own() {
    let user = User::with_policies("permit (principal, action, resource);\npermit (principal, action, resource);");
    let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"command":"true"}"#]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for line in lines {
        assert!(line.starts_with("agentd: policies are refused: ") && line.contains("test.cedar: a policy needs"), "{said}");
    }
    assert!(!said.contains("\\n"), "{said}");
}
