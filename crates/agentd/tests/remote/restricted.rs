//! Tokens that the holder of a key makes without the daemon.

use crate::place::{Remote, agentd, answer, folder};
use serde_json::json;
use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

/// Restricts a credential, as a holder on another machine: without any data of the daemon.
fn restrict(credential: &str, options: &[&str]) -> Output {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = agentd(elsewhere.path(), &[&["key", "restrict"], options].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its options does not read.
    let _ = child.stdin.take().unwrap().write_all(format!("{credential}\n").as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing is stored");
    output
}

fn token(credential: &str, options: &[&str]) -> String {
    let output = restrict(credential, options);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn run(remote: &Remote, credential: &str, workspace: &Path) -> (String, String) {
    let body = json!({
        "capability": "shell.exec.v1",
        "parameters": { "command": "pwd" },
        "workspace": { "path": workspace },
    });
    answer(&remote.post(credential, "/v1/intents", &body, &[]).output().unwrap())
}

#[test]
fn token_permits_less_than_its_key_and_ends_with_it() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    let work = remote.path("work").canonicalize().unwrap();
    fs::create_dir(work.join("own")).unwrap();
    std::os::unix::fs::symlink(&work, work.join("own/link")).unwrap();
    let own = work.join("own").display().to_string();
    let shell = token(&key, &["--capability", "shell.exec.v1", "--transport", "rest", "--workspace", &own, "--expires", "1h"]);
    assert_eq!(run(&remote, &key, &work).1, "200");
    let (object, status) = run(&remote, &shell, &work.join("own"));
    assert!(status == "200" && object.contains("work/own\\n"), "{object}");
    assert!(remote.good(&["audit", "tail", "--json", "-n", "4"]).contains("service:ci"), "the service stays the same");
    for outside in [work.clone(), work.join("own/link"), work.join("ownother"), remote.path("other")] {
        assert_eq!(run(&remote, &shell, &outside).1, "400", "{outside:?}");
    }
    assert_eq!(remote.get(Some(&shell), "/metrics", &[]).1, "403");
    let reader = token(&shell, &["--capability", "fs.read.v1"]);
    let (problem, status) = run(&remote, &reader, &work.join("own"));
    assert!(status == "403" && problem.contains("outside-scope"), "a token permits what all its blocks permit: {problem}");
    remote.good(&["key", "revoke", &key[7..23]]);
    for text in [&key, &shell, &reader] {
        assert_eq!(remote.get(Some(text), "/v1/capabilities", &[]).1, "401");
    }
}

#[test]
fn forged_cut_and_expired_tokens_are_refused() {
    let remote = Remote::new();
    let key = remote.key("ci", &[]);
    let good = token(&key, &["--capability", "fs.read.v1"]);
    let status = |text: &str| remote.get(Some(text), "/v1/capabilities", &[]).1;
    assert_eq!(status(&good), "200");
    let parts: Vec<&str> = good.split('.').collect();
    let [head, block, last] = parts[..] else { panic!("{good}") };
    for forged in [
        format!("{head}.{last}"),
        format!("{head}.{block}"),
        format!("{head}.{block}.{block}.{last}"),
        good[..good.len() - 2].to_owned(),
        good.replace(head, "agentdtoken_0000000000000000"),
        token(&remote.key("ci", &[]), &[]).replace("agentdtoken_", "agentd_"),
    ] {
        assert_eq!(status(&forged), "401", "{forged}");
    }
    let short = token(&good, &["--expires", "1s"]);
    while status(&short) != "401" {}
    assert_eq!(status(&good), "200", "the token from which it was made");
}

#[test]
fn credential_is_read_from_standard_input_and_never_repeated() {
    let root = folder();
    let output = agentd(root.path(), &["key", "create", "ci", "--no-expiry"]).output().unwrap();
    let key = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    for (credential, options) in [
        (key.replace("agentd_", "agent_"), &[][..]),
        (key.clone(), &["--workspace", "relative"][..]),
        (key.clone(), &["--expires", "0s"][..]),
        (format!("{key}.x"), &[][..]),
    ] {
        let output = restrict(&credential, options);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{error}");
        assert!(!error.contains(&key[40..60]), "{error}");
    }
}
