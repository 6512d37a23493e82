//! Quotas over several processes of `agentd call`, and `agentd quota`.

use crate::{User, object};
use json_document::is_documented;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command},
    time::Duration,
};

use crate::json_document;

fn with_quotas(text: &str) -> User {
    let user = User::new();
    user.write("data/quotas.toml", text);
    user
}

/// Returns the object of `quota show` for the account of this user.
fn own(user: &User) -> Value {
    let shown: Value = serde_json::from_str(&user.good(&["quota", "show", "--json"])).unwrap();
    let name = format!("user:uid:{}", rustix::process::geteuid().as_raw());
    let accounts = shown["accounts"].as_array().unwrap();
    accounts.iter().find(|account| account["account"] == name.as_str()).unwrap().clone()
}

/// Waits until this number of intents wait for a place.
fn until_waiting(user: &User, number: u64) {
    while own(user)["waiting"] != number {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, child: &Child) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// A command that is executed until the file `go` exists.
const HELD: &str = "echo > held; until [ -e go ]; do sleep 0.01; done";

#[test]
fn processes_never_execute_more_intents_at_once_than_the_quota_allows() {
    let user = with_quotas("[default]\nconcurrency = 2");
    fs::create_dir(user.path("work/running")).unwrap();
    let script = "f=$(mktemp running/XXXXXX); ls running | wc -l >> counts; sleep 0.3; rm $f";
    let calls: Vec<_> = (0..6).map(|_| user.start(script, &[])).collect();
    for call in calls {
        let output = call.wait_with_output().unwrap();
        assert_eq!(object(&output)["status"], "finished", "{output:?}");
    }
    let counts = fs::read_to_string(user.path("work/counts")).unwrap();
    let counts: Vec<u32> = counts.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(counts.len(), 6);
    assert!(counts.iter().all(|count| *count <= 2), "{counts:?}");
    assert_eq!((&own(&user)["running"], &own(&user)["waiting"]), (&json!(0), &json!(0)));
}

#[test]
fn killed_process_loses_its_place_and_its_turn() {
    let user = with_quotas("[default]\nconcurrency = 1");
    let mut held = user.start(HELD, &[]);
    user.wait_for("work/held");
    let mut waiting = user.start("echo waiting >> order", &[]);
    until_waiting(&user, 1);
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let next = user.start("echo next >> order", &[]);
    until_waiting(&user, 1);
    held.kill().unwrap();
    held.wait().unwrap();
    assert_eq!(object(&next.wait_with_output().unwrap())["status"], "finished");
    assert_eq!(fs::read_to_string(user.path("work/order")).unwrap(), "next\n");
    user.good(&["state", "check"]);
}

#[test]
fn stopped_process_that_waits_holds_up_nobody() {
    let user = with_quotas("[default]\nconcurrency = 1");
    let held = user.start(HELD, &[]);
    user.wait_for("work/held");
    let stopped = user.start("echo stopped >> order", &[]);
    until_waiting(&user, 1);
    signal("-STOP", &stopped);
    let next = user.start("echo next >> order", &[]);
    until_waiting(&user, 2);
    fs::write(user.path("work/go"), "").unwrap();
    assert_eq!(object(&held.wait_with_output().unwrap())["status"], "finished");
    assert_eq!(object(&next.wait_with_output().unwrap())["status"], "finished");
    signal("-CONT", &stopped);
    assert_eq!(object(&stopped.wait_with_output().unwrap())["status"], "finished");
    assert_eq!(fs::read_to_string(user.path("work/order")).unwrap(), "next\nstopped\n");
}

#[test]
fn signal_ends_the_wait_for_a_place() {
    let user = with_quotas("[default]\nconcurrency = 1");
    let held = user.start(HELD, &[]);
    user.wait_for("work/held");
    let waiting = user.start("echo > started", &[]);
    until_waiting(&user, 1);
    signal("-TERM", &waiting);
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(128 + 15));
    assert_eq!(own(&user)["waiting"], 0);
    fs::write(user.path("work/go"), "").unwrap();
    held.wait_with_output().unwrap();
    assert!(!user.path("work/started").exists());
}

#[test]
fn refusal_states_when_to_try_again() {
    let user = with_quotas("[default]\nrate = \"1/h\"");
    assert_eq!(user.shell("true", &[]).0, 0);
    let (code, object) = user.shell("echo > started", &["--key", "k"]);
    assert_eq!((code, &object["reason"], &object["status"]), (77, &json!("quota-exceeded"), &json!("refused")), "{object:#}");
    assert!((1001..=3_600_000).contains(&object["error"]["retry_after_ms"].as_u64().unwrap()), "{object:#}");
    let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"command":"true"}"#]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("try again in"), "{output:?}");
    assert!(!user.path("work/started").exists());
    // The key is free, once the operator allows more.
    user.write("data/quotas.toml", "[default]\nrate = \"9/s\"");
    assert_eq!(user.shell("true", &["--key", "k"]).0, 0);
    let acts: Vec<_> = user.leaves(30).into_iter().filter_map(|leaf| Some(leaf.get("administrative")?["act"].clone())).collect();
    assert_eq!(acts, ["quotas-changed", "quotas-changed"]);
}

#[test]
fn processor_time_of_a_crashed_intent_is_charged_as_reserved() {
    let user = with_quotas("[default]\ncpu-per-day = \"1h\"\ncpu-per-intent = \"10m\"");
    let mut call = user.start(HELD, &[]);
    user.wait_for("work/held");
    assert_eq!((&own(&user)["cpu_reserved_ms"], &own(&user)["cpu_used_ms"]), (&json!(600_000), &json!(0)));
    call.kill().unwrap();
    call.wait().unwrap();
    assert_eq!(user.shell("true", &[]).0, 0);
    let account = own(&user);
    assert_eq!(account["cpu_reserved_ms"], 0);
    assert!((600_000..660_000).contains(&account["cpu_used_ms"].as_u64().unwrap()), "{account:#}");
}

#[test]
fn many_calls_at_once_are_not_held_up_by_the_usual_quotas() {
    let user = User::new();
    let calls: Vec<_> = (0..8).map(|_| user.start("true", &[])).collect();
    assert!(calls.into_iter().all(|call| call.wait_with_output().unwrap().status.success()));
    let account = own(&user);
    assert_eq!(
        (&account["concurrency"], &account["cpu_per_day_ms"], &account["rate_burst"]),
        (&json!(256), &Value::Null, &Value::Null)
    );
}

#[test]
fn nothing_is_executed_if_the_quotas_are_not_valid_or_not_private() {
    let user = with_quotas("[default]\nconcurrency = 1");
    let file = user.path("data/quotas.toml");
    let refused = |cause: &str| {
        let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"command":"echo > started"}"#]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(cause), "{output:?}");
    };
    fs::set_permissions(&file, fs::Permissions::from_mode(0o602)).unwrap();
    refused("chmod go-w");
    user.write("data/quotas.toml", "[default]\nconcurrency = 0");
    refused("quotas are refused");
    assert!(!user.path("work/started").exists());
}

#[test]
fn quota_commands_print_limits_use_and_every_problem() {
    let user = User::new();
    let text = user.good(&["quota", "show"]);
    assert!(text.starts_with("the usual quotas hold") && text.contains("0 of 256"), "{text}");
    assert!(!user.path("data").exists(), "nothing was created");
    let quotas = "[total]\nconcurrency = 9\n[default]\nrate = \"20/s\"\n[group.builders]\nconcurrency = 3\n";
    user.write("data/quotas.toml", quotas);
    user.shell("true", &[]);
    let text = user.good(&["quota", "show"]);
    for part in ["group:builders", "0 of 3", "total", "0 of 9", "of 20"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let shown: Value = serde_json::from_str(&user.good(&["quota", "show", "--json"])).unwrap();
    is_documented("`agentd quota`", 0, &[&shown]);
    assert_eq!(user.good(&["quota", "check", "../data/quotas.toml"]), "valid quotas: group:builders, total\n");
    user.write("bad.toml", "[default]\nburst = 2\n[principal.ci]\nconcurrency = 1\n");
    let output = user.run(&["quota", "check", "../bad.toml"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), printed.lines().count()), (Some(1), 2), "{printed}");
    let checked = [("../data/quotas.toml", 0), ("../bad.toml", 1)].map(|(file, code)| {
        let output = user.run(&["quota", "check", "--json", file]);
        assert_eq!(output.status.code(), Some(code));
        object(&output)
    });
    is_documented("`agentd quota`", 1, &checked.iter().collect::<Vec<_>>());
    assert_eq!(user.run(&["quota", "check", "missing"]).status.code(), Some(125));
}

#[test]
fn groups_of_the_local_user_are_numbers_in_policies_and_quotas() {
    let gid = rustix::process::getegid().as_raw();
    let permit = |group: String| format!(r#"@id("group") permit (principal in Group::"{group}", action, resource);"#);
    let user = User::with_policies(&permit(format!("gid:{gid}")));
    user.write("data/quotas.toml", &format!("[group.\"gid:{gid}\"]\nrate = \"1/h\"\n"));
    assert_eq!(user.shell("true", &[]).0, 0);
    assert_eq!(user.shell("true", &[]).1["reason"], "quota-exceeded");
    user.write("data/quotas.toml", "");
    user.write("data/policy/enforced/test.cedar", &permit("gid:4294967294".to_owned()));
    assert_eq!(user.shell("true", &[]).1["reason"], "denied");
    let principal = rustix::process::geteuid().as_raw();
    let only = format!(r#"@id("me") permit (principal == User::"uid:{principal}", action, resource);"#);
    user.write("data/policy/enforced/test.cedar", &only);
    assert_eq!(user.shell("true", &[]).0, 0);
}

#[test]
fn policy_that_forbids_secrets_refuses_before_a_value_is_read() {
    let user = User::with_policies(
        r#"@id("all") @egress("any") permit (principal, action, resource);
           @id("no-secrets") @reason("no credentials for this user") forbid (principal, action, resource)
           when { !context.secrets.names.isEmpty() };"#,
    );
    let secret = ["--net", "allow=api.example/tls", "--secret", "API_KEY@api.example=env:AGENTD_TEST_NO_SUCH_VARIABLE"];
    let (code, object) = user.shell("echo > started", &secret);
    assert_eq!((code, &object["reason"]), (77, &json!("denied")), "{object:#}");
    assert!(object["error"]["message"].as_str().unwrap().contains("no credentials for this user"), "{object:#}");
    assert_eq!(user.shell("true", &[]).0, 0, "without a secret");
    // A policy may permit the secrets of certain hosts.
    user.write(
        "data/policy/enforced/test.cedar",
        r#"@id("some") @egress("any") permit (principal, action, resource) when { ["other.example"].containsAll(context.secrets.hosts) };"#,
    );
    assert_eq!(user.shell("true", &secret).1["reason"], "denied");
    // The value is read only after the decision.
    let permitted = ["--net", "allow=other.example/tls", "--secret", "API_KEY@other.example=env:AGENTD_TEST_NO_SUCH_VARIABLE"];
    let (code, object) = user.shell("echo > started", &permitted);
    assert_eq!((code, &object["status"]), (125, &json!("failed")), "{object:#}");
    assert!(object["error"]["message"].as_str().unwrap().contains("not set in the environment"), "{object:#}");
    assert!(!user.path("work/started").exists());
    let output = user.run(&["call", "shell.exec.v1", "--params", r#"{"command":"true"}"#, "--secret", "the-value"]);
    assert!(output.status.code() == Some(125) && !String::from_utf8_lossy(&output.stderr).contains("the-value"), "{output:?}");
}
