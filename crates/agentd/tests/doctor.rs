//! `agentd doctor` where there is no KVM: what is not there is named, and claimed of nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use serde_json::Value;
use std::process::{Command, Output};

/// A machine of ours without `/dev/kvm`: what a container without it has below `/dev`, in a mount namespace of the script's own.
const WITHOUT_KVM: &str = r#"
    set -e
    mkdir "$0/dev" "$0/dev/shm"
    for device in null zero random urandom; do
        : >"$0/dev/$device"
        mount --bind "/dev/$device" "$0/dev/$device"
    done
    mount --rbind "$0/dev" /dev
    test ! -e /dev/kvm
    exec "$@"
"#;

/// What the program answers there.
fn without_kvm(args: &[&str]) -> Output {
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", WITHOUT_KVM]).arg(place.path()).arg(program).args(args);
    command.env("AGENTD_DATA_DIR", place.path().join("data")).output().unwrap()
}

#[test]
fn without_kvm_firecracker_proves_nothing_and_says_why() {
    let output = without_kvm(&["doctor", "--backend", "firecracker", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((said["auto"].clone(), output.status.code()), (Value::Null, Some(0)));
    let row = &said["backends"][0];
    assert_eq!(row["name"], "firecracker");
    let error = row["error"].as_str().unwrap();
    assert!(error.contains("/dev/kvm is not there") && error.contains("--device /dev/kvm"), "{error}");
}

#[test]
fn without_kvm_nothing_runs_in_firecracker() {
    let output = without_kvm(&["run", "--backend", "firecracker", "--workspace", "none", "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/dev/kvm is not there"), "{said}");
}
