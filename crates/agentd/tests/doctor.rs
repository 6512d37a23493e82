//! `agentd doctor` on a host without KVM: the missing device is named, and nothing is claimed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use serde_json::Value;
use std::process::{Command, Output};

/// Hides `/dev/kvm` in a new mount namespace: mounts a `/dev` as in a container without the device.
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

/// Runs the program without `/dev/kvm`.
fn without_kvm(args: &[&str]) -> Output {
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", WITHOUT_KVM]).arg(place.path()).arg(program).args(args);
    command.env("AGENTD_DATA_DIR", place.path().join("data")).output().unwrap()
}

#[test]
fn firecracker_without_kvm_proves_nothing_and_names_remedy() {
    let output = without_kvm(&["doctor", "--backend", "firecracker", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((report["auto"].clone(), output.status.code()), (Value::Null, Some(0)));
    let row = &report["backends"][0];
    assert_eq!(row["name"], "firecracker");
    let error = row["error"].as_str().unwrap();
    assert!(error.contains("/dev/kvm does not exist") && error.contains("--device /dev/kvm"), "{error}");
}

#[test]
fn run_in_firecracker_without_kvm_fails() {
    let output = without_kvm(&["run", "--backend", "firecracker", "--workspace", "none", "--", "true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("/dev/kvm does not exist"), "{message}");
}
