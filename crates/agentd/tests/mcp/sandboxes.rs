//! Named sandboxes of a model, and those of its user.

use crate::client::{Client, Era, User};
use serde_json::json;
use std::fs;

#[test]
fn model_reaches_no_other_directory_by_a_sandbox_of_its_user() {
    let user = User::new();
    fs::create_dir(user.path("private")).unwrap();
    fs::write(user.path("private/secret"), "planted").unwrap();
    let private = user.path("private").display().to_string();
    user.good(&["sandbox", "create", "by-hand", "--workspace", &private]);
    let by_intent = ["call", "sandbox.create.v1", "--params", r#"{"sandbox":"by-intent"}"#, "--workspace", &private];
    user.good(&by_intent);
    let mut client = Client::start(&user, Era::Old("2025-11-25"));
    for name in ["by-hand", "by-intent"] {
        for (tool, arguments) in [
            ("shell_exec_v1", json!({ "command": format!("cat {private}/secret"), "_sandbox": name })),
            ("sandbox_read_v1", json!({ "sandbox": name, "path": format!("{private}/secret") })),
            ("sandbox_write_v1", json!({ "sandbox": name, "path": format!("{private}/secret"), "text": "changed" })),
            ("sandbox_fork_v1", json!({ "sandbox": name, "new": "mine" })),
            ("sandbox_terminate_v1", json!({ "sandbox": name })),
        ] {
            let content = client.call(tool, arguments)["structuredContent"].clone();
            assert_eq!(content["error"]["code"], "unknown-sandbox", "{tool}: {content}");
        }
    }
    let listed = client.call("sandbox_list_v1", json!({}))["structuredContent"].clone();
    assert_eq!(listed["result"]["sandboxes"], json!([]), "{listed}");
    assert_eq!(fs::read_to_string(user.path("private/secret")).unwrap(), "planted");
    // A sandbox of the model has the directory in which the model works.
    let created = client.call("sandbox_create_v1", json!({ "sandbox": "own" }))["structuredContent"].clone();
    let work = user.path("work").canonicalize().unwrap();
    assert_eq!(created["result"]["workspace"]["path"], work.display().to_string(), "{created}");
    let run = client.call("shell_exec_v1", json!({ "command": "echo made > made; pwd", "_sandbox": "own" }));
    assert_eq!(run["structuredContent"]["result"]["stdout"]["text"], format!("{}\n", work.display()), "{run}");
    assert!(user.path("work/made").exists());
    drop(client);
    user.good(&["daemon", "stop"]);
}
