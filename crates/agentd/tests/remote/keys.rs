//! `agentd key`, as an operator uses it.

use crate::place::{Remote, agentd, folder};
use serde_json::Value;
use std::path::Path;

fn refused(root: &Path, arguments: &[&str]) -> String {
    let output = agentd(root, arguments).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn list(remote: &Remote) -> Vec<Value> {
    serde_json::from_str(&remote.good(&["key", "ls", "--json"])).unwrap()
}

/// Returns the administrative leaves of the audit log.
fn acts(remote: &Remote) -> Vec<Value> {
    let text = remote.good(&["audit", "tail", "--json", "-n", "100"]);
    let leaves = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["leaf"]["event"].clone());
    leaves.filter_map(|event| event.get("administrative").cloned()).collect()
}

#[test]
fn key_is_printed_once_and_its_creation_and_revocation_are_recorded() {
    let remote = Remote::new();
    let key = remote.key("ci", &["--group", "builders", "--capability", "shell.exec.v1"]);
    let (id, secret) = key.strip_prefix("agentd_").unwrap().split_once('_').unwrap();
    let is_hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert!((id.len(), secret.len()) == (16, 72) && is_hexadecimal(id) && is_hexadecimal(secret), "{key}");
    let [listed] = &list(&remote)[..] else { panic!("one key") };
    assert_eq!((&listed["id"], &listed["service"], &listed["state"]), (&id.into(), &"ci".into(), &"valid".into()));
    assert_eq!(listed["capabilities"], serde_json::json!(["shell.exec.v1"]));
    assert!(listed["last_used"].is_null());
    assert_eq!(remote.get(Some(&key), "/v1/capabilities", &[]).1, "200");
    while list(&remote)[0]["last_used"].is_null() {
        std::thread::yield_now();
    }
    let table = remote.good(&["key", "ls"]);
    assert!(table.contains(id) && !table.contains(secret) && table.lines().all(|line| line.chars().count() <= 80), "{table}");
    // Whoever passes the whole key does not get it repeated.
    let error = refused(remote.root.path(), &["key", "revoke", &key]);
    assert!(error.contains("not the identifier of a key") && !error.contains(secret), "{error}");
    assert_eq!(remote.good(&["key", "revoke", &id[..6]]), format!("{id} revoked\n"));
    assert_eq!(remote.good(&["key", "revoke", id]), format!("{id} revoked\n"), "a repetition is harmless");
    assert_eq!(list(&remote)[0]["state"], "revoked");
    let acts = acts(&remote);
    let [created, revoked, _] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!((&created["act"], &created["details"]["service"]), (&"api-key-created".into(), &"ci".into()));
    assert_eq!((&created["details"]["key"], &created["details"]["groups"]), (&id.into(), &"builders".into()));
    assert_eq!((&revoked["act"], &revoked["details"]["key"]), (&"api-key-revoked".into(), &id.into()));
    remote.good(&["audit", "verify"]);
}

#[test]
fn key_without_expiry_or_with_names_of_the_host_is_refused() {
    let root = folder();
    let refused = |arguments: &[&str]| refused(root.path(), &[&["key", "create"], arguments].concat());
    assert!(refused(&["ci"]).contains("--expires"));
    assert!(refused(&["ci", "--expires", "1h", "--no-expiry"]).contains("cannot be used with"));
    assert!(refused(&["uid:0", "--no-expiry"]).contains("not a name"));
    assert!(refused(&["ci", "--no-expiry", "--group", "gid:0"]).contains("not a name"));
    assert!(refused(&["ci", "--no-expiry", "--transport", "local-socket"]).contains("not a transport"));
    assert!(refused(&["ci", "--no-expiry", "--capability", "shell.exec.v99"]).contains("shell.exec.v99"));
    assert!(refused(&["ci", "--expires", "0d"]).contains("days"));
}
