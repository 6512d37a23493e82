//! The output for the user: the plan, refusals with the option that allows the destination, and errors before anything runs.

use crate::json_document::is_documented;
use crate::{
    EgressTest,
    outer::{PUBLIC, name},
    place::EgressDir,
};

pub const TESTS: &[EgressTest] = &[
    ("refused_destination_is_one_line_with_the_option_that_allows_it", refused),
    ("log_allows_nothing_and_names_the_grants", log),
    ("preset_and_file_grant_their_hosts_and_the_file_explains_refusals", preset_and_file),
    ("json_has_the_flows_with_their_verdicts", json),
    ("explain_prints_what_is_allowed", explain),
    ("grants_that_cannot_be_enforced_are_errors_and_nothing_runs", invalid),
    ("backend_without_a_boundary_refuses_granted_hosts", without_boundary),
];

const ASK: &str = "for i in 1 2 3; do getent hosts a.example; getent hosts b.example; done; exit 0";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn refused(backend: &str) {
    let output = EgressDir::new().run(backend, &["--net", "allow=c.example"], &["sh", "-c", ASK]);
    let line = |name: &str| {
        format!("agentd: network: {name} was refused: no network grant covers the name — allow it with --net allow={name}\n")
    };
    let all = "agentd: network: allow all of these names with --net allow=a.example,b.example\n";
    assert_eq!(text(&output.stderr), [&line("a.example"), &line("b.example"), all].concat());
}

fn log(backend: &str) {
    let output = EgressDir::new().run(backend, &["--net", "log"], &["sh", "-c", ASK]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(text(&output.stderr).ends_with("allow all of these names with --net allow=a.example,b.example\n"), "{output:?}");
}

fn json(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "curl -sS http://granted.example/b; getent hosts a.example";
    let output = EgressDir::new().run(backend, &["--json", "--net", "allow=granted.example:80"], &["sh", "-c", script]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let flows = object["network"]["flows"].as_array().unwrap();
    let flow = |to: &str| flows.iter().find(|flow| flow["to"] == to).unwrap_or_else(|| panic!("{to}: {object:#}"));
    let granted = flow("granted.example:80");
    assert_eq!((&granted["allowed"], &granted["rule"]), (&true.into(), &"granted.example:80".into()), "{granted}");
    assert!(granted["sent_bytes"].as_u64() > Some(20) && granted["received_bytes"].as_u64() > Some(20), "{granted}");
    assert_eq!((&flow("a.example")["allowed"], &flow("a.example")["missing"]), (&false.into(), &"a.example".into()));
    assert_eq!(object["network"]["missing"], serde_json::json!(["a.example"]));
    assert_eq!(object["enforced"]["network"], true);
    is_documented("`agentd run --json`", 1, &[&object["network"]]);
}

fn preset_and_file(backend: &str) {
    let place = EgressDir::new();
    let file = place.outside("grants.toml");
    std::fs::write(&file, "presets = ['go']\nallow = ['c.example']\ndeny_reason = 'ask the platform team'").unwrap();
    let file = format!("file={}", file.display());
    let output = place.run(backend, &["--explain", "--net", &file, "--net", "preset=python"], &["true"]);
    for name in ["c.example:443", "sum.golang.org:443", "pypi.org:443"] {
        assert!(text(&output.stdout).contains(&format!("allowed      {name} (TLS for this name)")), "{output:?}");
    }
    let output = place.run(backend, &["--net", &file], &["sh", "-c", ASK]);
    assert!(text(&output.stderr).ends_with("agentd: network: ask the platform team\n"), "{output:?}");
    // A file that the command could change or replace is refused, and so is a file that would block.
    std::fs::copy(place.outside("grants.toml"), place.work().join("own.toml")).unwrap();
    std::os::unix::fs::symlink(place.outside("grants.toml"), place.work().join("link.toml")).unwrap();
    std::os::unix::fs::symlink(place.work().join("own.toml"), place.outside("link.toml")).unwrap();
    let fifo = place.outside("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for (file, reason) in [
        (place.work().join("own.toml"), "the command could change this file"),
        (place.work().join("link.toml"), "the command could change this file"),
        (place.outside("link.toml"), "the command could change this file"),
        ("own.toml".into(), "the command could change this file"),
        (fifo, "not a regular file"),
    ] {
        let output = place.run(backend, &["--net", &format!("file={}", file.display())], &["touch", "ran"]);
        assert!(output.status.code() == Some(125) && text(&output.stderr).contains(reason), "{file:?}: {output:?}");
        assert!(!place.work().join("ran").exists(), "{file:?}");
    }
    let output = place.run(backend, &["--net", "preset=pyton"], &["true"]);
    assert!(output.status.code() == Some(125) && text(&output.stderr).contains("unknown preset"), "{output:?}");
}

fn explain(backend: &str) {
    let net = "allow=a.example,b.example:80,*.c.example:22,10.1.2.0/24:5432";
    let output = EgressDir::new().run(backend, &["--explain", "--net", net], &["true"]);
    let text = text(&output.stdout);
    for line in [
        "allowed      a.example:443 (TLS for this name)",
        "allowed      b.example:80 (HTTP/1 requests to this host)",
        "allowed      *.c.example:22 (TCP, content not examined)",
        "allowed      10.1.2.0/24:5432 (TCP, content not examined)",
        "gateway      from this host, without a proxy",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

fn invalid(backend: &str) {
    let place = EgressDir::new();
    let many: Vec<String> = (1..=25).map(|port| format!("a.example:{}", 1000 + port)).collect();
    let many = format!("allow={}", many.join(","));
    for (net, message) in [
        ("allow=*", "`*` alone would allow every host"),
        ("allow=a.example,", "empty item in the list"),
        ("allow=a.example:53", "agentd itself answers on port 53"),
        ("allow=a.example:123/udp", "UDP is not carried yet — remove the grant"),
        (many.as_str(), "25 different ports are granted, the maximum is 24"),
        ("host allow=a.example", "off or host is combined with another value"),
        ("a.example", "expected off, host, log, allow=HOSTS, preset=NAMES or file=PATH"),
    ] {
        let options: Vec<&str> = net.split(' ').flat_map(|value| ["--net", value]).collect();
        let output = place.run(backend, &options, &["touch", "ran"]);
        assert_eq!(output.status.code(), Some(125), "{net:?}: {output:?}");
        assert!(text(&output.stderr).contains(message), "{net:?}: {output:?}");
    }
    assert!(!place.work().join("ran").exists());
}

fn without_boundary(_: &str) {
    let place = EgressDir::new();
    for net in ["allow=a.example", "log"] {
        let output = place.run("host-direct", &["--net", net], &["touch", "ran"]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(
            text(&output.stderr).contains("host-direct has no boundary and cannot enforce --net allow= or log"),
            "{output:?}"
        );
    }
    assert!(!place.work().join("ran").exists());
}
