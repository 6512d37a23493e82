//! No key is found anywhere but with its holder.

use crate::place::{Remote, folder};
use agentd_client::{Client, request};
use serde_json::json;
use std::{fs, path::Path};

fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            files(&path, found);
        } else if kind.is_file() {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_in_no_log_file_receipt_error_or_command_line() {
    let remote = Remote::with(folder(), &[], "trace");
    let (good, revoked) = (remote.key("ci", &[]), remote.key("old", &[]));
    remote.good(&["key", "revoke", &revoked[7..23]]);
    let mut answers = String::new();
    for key in [&good, &revoked] {
        answers += &remote.get(Some(key), "/v1/capabilities", &[]).0;
        answers += &remote.get(Some(key), &format!("/v1/intents/{key}"), &["--request", "DELETE"]).1;
    }
    answers +=
        &String::from_utf8(remote.shell(&good, "env; cat /proc/*/environ; cat /proc/*/cmdline", &[]).output().unwrap().stdout)
            .unwrap();
    answers += &remote.tool(&good, "shell_exec_v1", &json!({ "command": "env" })).to_string();
    let client = Client::builder(&remote.url).api_key(&good).unwrap().connect().await.unwrap();
    let outcome = client.execute(request("shell.exec.v1", &json!({ "command": "env" })).unwrap()).await.unwrap();
    answers += &format!("{outcome:?} {client:?}");
    let other = Client::builder(&remote.url).api_key(&revoked).unwrap().connect().await.unwrap();
    answers += &format!("{:?}", other.health().await.unwrap_err());
    let line = fs::read(format!("/proc/{}/cmdline", remote.daemon.id())).unwrap();
    answers += &String::from_utf8_lossy(&line);
    let (root, log) = remote.end();
    assert!(log.len() > 1000, "the log was requested");
    let mut all = vec![("the answers".to_owned(), answers.into_bytes()), ("the log".to_owned(), log.into_bytes())];
    files(root.path(), &mut all);
    assert!(all.iter().any(|(name, _)| name.ends_with("state.db")));
    for key in [&good, &revoked] {
        let secret = key.rsplit_once('_').unwrap().1.as_bytes()[..32].to_vec();
        for (name, content) in &all {
            assert!(!content.windows(secret.len()).any(|window| window == secret), "{name} has a key");
        }
    }
}
