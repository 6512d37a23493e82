//! `--net-limit`.

use crate::{
    EgressTest,
    outer::{PUBLIC, name, reached},
    place::{EgressDir, TOOLS},
};

pub const TESTS: &[EgressTest] = &[
    ("limits_of_the_network_are_enforced_and_reported", enforced),
    ("json_tells_a_connection_that_the_limit_of_bytes_ended_from_one_refused_afterwards", ended_or_refused),
    ("limits_of_the_network_come_from_options_and_files_and_are_explained", explained),
    ("limits_of_the_network_that_cannot_apply_are_errors", invalid),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn enforced(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
first = connect('granted.example', 2222)
attempt('granted.example', 2222)
def fill():
    try:
        while True:
            first.sendall(b'x' * 1000)
            if not first.recv(1000): return 'end'
    except OSError as e: return error(e)
print('fill', fill())
attempt('granted.example', 2222)
";
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let options = ["--net", "allow=granted.example:2222", "--net-limit", "connections=1", "--net-limit", "bytes=20000"];
    let output = EgressDir::new().run(backend, &options, &argv);
    let expected = ["granted.example 2222 ECONNRESET", "fill ECONNRESET", "granted.example 2222 ECONNRESET"];
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), expected, "{output:?}");
    let err = text(&output.stderr);
    for line in [
        "granted.example:2222 was refused: the sandbox has as many connections as its limit permits",
        "granted.example:2222 was refused: the sandbox has carried as many bytes as its limit permits",
    ] {
        assert!(err.contains(line), "{line}: {err}");
    }
    assert!(reached().iter().all(|at| at.starts_with(PUBLIC)), "{:?}", reached());
}

fn ended_or_refused(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
s = connect('granted.example', 2222)
try:
    while True:
        s.sendall(b'x' * 1000)
        if not s.recv(1000): break
except OSError: pass
attempt('granted.example', 2222)
";
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let options = ["--json", "--net", "allow=granted.example:2222", "--net-limit", "bytes=20000"];
    let output = EgressDir::new().run(backend, &options, &argv);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let flows = object["network"]["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 2, "{object:#}");
    let [ended, refused] = [true, false].map(|allowed| flows.iter().find(|flow| flow["allowed"] == allowed).unwrap());
    assert_eq!((&ended["rule"], &refused["rule"]), (&"granted.example:2222".into(), &serde_json::Value::Null), "{object:#}");
    for flow in [ended, refused] {
        let reason = flow["reason"].as_str().unwrap();
        assert!(reason.starts_with("the sandbox has carried as many bytes as its limit permits"), "{object:#}");
    }
    let carried = ["sent_bytes", "received_bytes"].map(|key| ended[key].as_u64().unwrap());
    assert!((10_000..=20_000).contains(&carried.iter().sum::<u64>()), "{object:#}");
    assert_eq!((&refused["sent_bytes"], &refused["received_bytes"]), (&0.into(), &0.into()), "{object:#}");
}

fn explained(backend: &str) {
    let place = EgressDir::new();
    let file = place.outside("grants.toml");
    std::fs::write(&file, "allow = ['a.example']\nlimits = 'connections=5,bytes=1M'").unwrap();
    let file = format!("file={}", file.display());
    let output = place.run(backend, &["--explain", "--net", &file, "--net-limit", "connections=9,rate=2M/s"], &["true"]);
    let line = "limited      connections=5,bytes=1M,rate=2M/s";
    assert!(text(&output.stdout).lines().any(|found| found == line), "{output:?}");
}

fn invalid(backend: &str) {
    let place = EgressDir::new();
    for (options, message) in [
        (&["--net", "allow=a.example", "--net-limit", "bytes=0"][..], "'bytes=0' is not a limit of the network"),
        (&["--net", "allow=a.example", "--net-limit", "rate=1M"], "'rate=1M' is not a limit of the network"),
        (&["--net-limit", "bytes=1M"], "only granted hosts can have limits"),
        (&["--net", "host", "--net-limit", "bytes=1M"], "only granted hosts can have limits"),
    ] {
        let output = place.run(backend, options, &["touch", "ran"]);
        assert_ne!(output.status.code(), Some(0), "{options:?}: {output:?}");
        assert!(text(&output.stderr).contains(message), "{options:?}: {output:?}");
    }
    assert!(!place.work().join("ran").exists());
}
