//! Intents of `agentd call` with granted hosts and secrets: policies decide about both, and they hold from inside.

use crate::{
    EgressTest,
    outer::{PUBLIC, heads, name},
    place::EgressDir,
    search::has,
};
use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

/// The namespace of an ordinary user's tests has no root, whom agentd would trust with the directories above the policies.
pub const TESTS: &[EgressTest] = &[
    ("as_root::intent_reaches_the_hosts_of_its_policies_and_no_others", hosts),
    ("as_root::secret_of_an_intent_reaches_its_host_if_the_policies_permit_it", secret),
];

const VALUE: &str = "real-value-41d7c3a9b0ff2e58";
const ASK: &str = "curl -sS -H \"Authorization: Bearer $API_KEY\" https://granted.example/a";

/// Calls `shell.exec.v1` with this policy.
fn call(place: &EgressDir, backend: &str, policy: &str, options: &[&str], script: &str) -> (Output, serde_json::Value) {
    let folder = place.outside("data/policy/enforced");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("test.cedar"), policy).unwrap();
    for above in folder.ancestors().take(3).chain([folder.join("test.cedar").as_path()]) {
        fs::set_permissions(above, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let mut command = place.call(backend, "shell.exec.v1", &serde_json::json!({ "command": script }), options);
    let output = command.env("REAL_KEY", VALUE).output().unwrap();
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, object)
}

fn hosts(backend: &str) {
    name("granted.example", &[PUBLIC]);
    name("other.example", &[PUBLIC]);
    let place = EgressDir::new();
    let policy = r#"@id("hosts") @egress("granted.example:80") permit (principal, action, resource);"#;
    let script =
        "for host in granted other; do curl -sS -o /dev/null --max-time 60 http://$host.example/ && echo $host; done; true";
    let (_, object) = call(&place, backend, policy, &[], script);
    assert_eq!(object["result"]["stdout"]["text"], "granted\n", "{object:#}");
    // The same attempt succeeds if the policies permit both.
    let both = policy.replace("granted.example:80", "*.example:80");
    let (_, object) = call(&place, backend, &both, &[], script);
    assert_eq!(object["result"]["stdout"]["text"], "granted\nother\n", "{object:#}");
}

fn secret(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let policy = r#"@id("all") @egress("any") permit (principal, action, resource);"#;
    let options = ["--net", "allow=granted.example", "--secret", "API_KEY@granted.example=env:REAL_KEY"];
    let script = format!("echo $API_KEY; {ASK}");
    let (output, object) = call(&place, backend, policy, &options, &script);
    let printed = object["result"]["stdout"]["text"].as_str().unwrap();
    assert!(object["status"] == "finished" && printed.ends_with("tls /a"), "{object:#}");
    let credential = format!("authorization: bearer {VALUE}");
    let sent = |number: usize| {
        let heads = heads("tls");
        assert_eq!(heads.iter().filter(|head| head.to_lowercase().contains(&credential)).count(), number, "{heads:?}");
    };
    sent(1);
    assert!(!has(&output.stdout, VALUE) && !has(&output.stderr, VALUE), "{output:?}");
    let found = std::process::Command::new("grep").args(["-rl", VALUE]).arg(place.outside("data")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "a record has the value");
    let forbid = format!(
        r#"{policy} @id("no") forbid (principal, action, resource) when {{ context.secrets.hosts.contains("granted.example") }};"#
    );
    let (_, object) = call(&place, backend, &forbid, &options, &script);
    assert_eq!(object["reason"], "denied", "{object:#}");
    sent(1);
}
