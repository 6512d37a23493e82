//! Named sandboxes with granted hosts: the daemon runs their gateways, the network grants are part of their records, and changes
//! apply immediately.

use crate::{
    EgressTest,
    json_document::is_documented,
    named_place::{NamedDir, kill, runs, until},
    outer::{PUBLIC, name, reached, wait_for_end},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

pub const TESTS: &[EgressTest] = &[
    ("network_grants_still_apply_after_restarts_restore_and_fork", hold),
    ("grants_change_at_once_also_for_open_connections", change),
    ("change_that_is_refused_changes_nothing", refused_change),
    ("concurrent_changes_are_all_applied", concurrent),
    ("killed_daemon_leaves_nothing_reachable_and_the_next_use_works", killed),
    ("grant_file_is_read_once_by_the_client", file),
    ("log_prints_flows_with_escaped_names", log),
];

/// Talks to the echo server of a granted name.
const TALK: &str = "exec 3<>/dev/tcp/granted.example/2222 && echo hello >&3 && read -r line <&3 && echo $line";

/// Waits until the name is granted, then prints how the connection opens and ends.
const CONNECT: &str = "
import errno, socket, time
while True:
    try:
        s = socket.create_connection(('granted.example', 2222))
        break
    except OSError:
        time.sleep(0.01)
s.sendall(b'x')
s.recv(1)
print('open', flush=True)
try:
    print('data' if s.recv(1) else 'end', flush=True)
except OSError as e:
    print(errno.errorcode[e.errno], flush=True)
";

fn hold(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "allow=granted.example:2222"]);
    let reaches = |sandbox: &str, when: &str| {
        assert_eq!(place.bash(sandbox, TALK), "hello\n", "{when}");
        assert_eq!(place.bash(sandbox, "getent hosts other.example || echo none"), "none\n", "{when}");
    };
    reaches("dev", "after the creation");
    place.agentd(&["snapshot", "dev", "saved"]);
    reaches("dev", "after a snapshot");
    place.agentd(&["restore", "dev", "saved"]);
    reaches("dev", "after restoring");
    place.agentd(&["fork", "dev", "now"]);
    place.agentd(&["fork", "dev", "--of", "saved", "then"]);
    reaches("now", "in a fork");
    // Each fork has its own gateway.
    place.agentd(&["net", "now", "--revoke", "granted.example:2222"]);
    assert_eq!(place.agentd(&["net", "now"]), "no granted hosts\n");
    assert_eq!(place.bash("now", "getent hosts granted.example || echo none"), "none\n");
    reaches("dev", "after a change of the fork");
    reaches("then", "in a fork of a snapshot");
    place.stop();
    assert_eq!(place.agentd(&["net", "dev"]), "granted.example:2222\n");
    reaches("dev", "after a restart of the daemon");
    assert_eq!(place.bash("now", "getent hosts granted.example || echo none"), "none\n");
    kill(place.daemon().unwrap());
    reaches("dev", "after the daemon was killed");
}

fn change(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "log"]);
    let mut exec = place.command(&["exec", "dev", "--", "python3", "-c", CONNECT]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(exec.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The name does not exist yet.
    until("the command runs", || place.agentd(&["ls"]).contains("live, 1 command"));
    place.agentd(&["net", "dev", "--allow", "granted.example:2222,granted.example:80"]);
    assert_eq!(lines.next().as_deref(), Some("open"));
    // A port below 1024, on which a program of an ordinary user could not listen.
    let http = "exec 3<>/dev/tcp/granted.example/80 && \
                printf 'GET /a HTTP/1.0\\r\\nHost: granted.example\\r\\n\\r\\n' >&3 && tail -n1 <&3";
    assert_eq!(place.bash("dev", http), "http /a");
    place.agentd(&["net", "dev", "--revoke", "granted.example:2222", "--allow", "b.example"]);
    assert_eq!(lines.next().as_deref(), Some("ECONNRESET"));
    assert!(exec.wait().unwrap().success());
    wait_for_end(PUBLIC);
    let connected = reached().len();
    // The name remains, with another port. A connection to the revoked port is refused.
    assert_eq!(place.bash("dev", &format!("({TALK}) 2>/dev/null || echo refused")), "refused\n");
    assert_eq!(reached().len(), connected);
    assert_eq!(place.agentd(&["net", "dev"]), "granted.example:80\nb.example:443\n");
    place.agentd(&["net", "dev", "--allow", "granted.example:2222"]);
    assert_eq!(place.bash("dev", TALK), "hello\n");
    let object = place.json(&["net", "dev", "--json"]);
    assert_eq!(object["grants"], serde_json::json!(["granted.example:80", "b.example:443", "granted.example:2222"]));
    is_documented("`agentd sandbox`", 2, &[&object]);
}

fn refused_change(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "allow=granted.example:2222"]);
    place.agentd(&["create", "none"]);
    let listen = "import socket, time; s = socket.create_server(('127.0.0.1', 3333)); open('/ready', 'w'); time.sleep(1000)";
    place.agentd(&["exec", "-d", "dev", "--", "python3", "-c", listen]);
    until("the program listens", || place.bash("dev", "test -e /ready && echo ready || true") == "ready\n");
    let many = (1..=24).map(|port| format!("a.example:{}", 1000 + port)).collect::<Vec<_>>().join(",");
    for (arguments, cause) in [
        (&["dev", "--allow", "a.example,*"][..], "`*` alone would allow every host"),
        (&["dev", "--allow", "a.example", "--revoke", "b.example"], "no network grant b.example:443"),
        (&["dev", "--allow", "a.example:80/GET:/x,a.example:80/udp"], "over UDP (QUIC)"),
        (&["dev", "--allow", "a.example/GET:/x"], "which a named sandbox does not have"),
        (&["dev", "--allow", many.as_str()], "25 different ports"),
        (&["dev", "--allow", "a.example,granted.example:3333"], "a program in the sandbox listens on this port"),
        (&["none", "--allow", "a.example"], "created without granted hosts — create one with --net allow= or --net log"),
        (&["missing", "--allow", "a.example"], "missing"),
    ] {
        let refused = place.refused(&[&["net"], arguments].concat());
        assert!(refused.contains(cause), "{arguments:?}: {refused}");
        assert_eq!(place.agentd(&["net", "dev"]), "granted.example:2222\n", "{arguments:?}");
    }
    assert_eq!(place.agentd(&["net", "none"]), "off (loopback only)\n");
    let refused = place.refused(&["create", "new", "--net", "allow=a.example/GET:/x"]);
    assert!(refused.contains("which a named sandbox does not have"), "{refused}");
    assert!(!place.agentd(&["ls"]).contains("new"));
    assert_eq!(place.bash("dev", "getent hosts a.example || echo none"), "none\n");
    assert_eq!(place.bash("dev", TALK), "hello\n");
    // A paused sandbox has no sockets for another port, but its grants can be revoked.
    let paused = place.command(&["pause", "dev"]).output().unwrap();
    if paused.status.success() {
        assert!(place.refused(&["net", "dev", "--allow", "a.example"]).contains("the sandbox is paused"));
    } else {
        let cause = String::from_utf8_lossy(&paused.stderr);
        assert!(!rustix::process::geteuid().is_root() && cause.contains("freezer"), "{cause}");
    }
    place.agentd(&["net", "dev", "--revoke", "granted.example:2222"]);
    place.agentd(&["resume", "dev"]);
    assert_eq!(place.bash("dev", "getent hosts granted.example || echo none"), "none\n");
}

fn concurrent(_: &str) {
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "log"]);
    // Starts the sandbox. Changes also apply immediately in running sandboxes.
    place.bash("dev", "true");
    let names: Vec<String> = (0..8).map(|number| format!("n{number}.example:{}", 3000 + number % 4)).collect();
    let change = |name: &String| place.command(&["net", "dev", "--allow", name.as_str()]).spawn().unwrap();
    for mut client in names.iter().map(change).collect::<Vec<_>>() {
        assert!(client.wait().unwrap().success());
    }
    let shown = place.agentd(&["net", "dev"]);
    let mut grants: Vec<_> = shown.lines().collect();
    grants.sort_unstable();
    assert_eq!(grants, names);
    assert_eq!(
        place.bash("dev", "for i in 0 1 2 3 4 5 6 7; do getent hosts n$i.example >/dev/null && echo $i; done"),
        "0\n1\n2\n3\n4\n5\n6\n7\n"
    );
}

fn killed(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    let mark = format!("mark-{}", std::process::id());
    place.agentd(&["create", "dev", "--net", "log"]);
    place.agentd(&["exec", "-d", "dev", "--", "python3", "-c", &format!("{CONNECT}\ntime.sleep(1000)"), &mark]);
    place.agentd(&["net", "dev", "--allow", "granted.example:2222"]);
    until("the connection is open", || place.agentd(&["logs", "dev"]) == "open\n");
    assert!(runs(&mark));
    let listed = |part: &str| String::from_utf8_lossy(&place.net(&["log", "dev"]).stdout).contains(part);
    let open = format!("Z open granted.example:2222 at {PUBLIC}:2222 by granted.example:2222, sent ");
    until("the open connection is listed", || listed(&open));
    kill(place.daemon().unwrap());
    assert!(listed(&open), "the record of the opening is on disk");
    wait_for_end(PUBLIC);
    until("the processes of the sandbox have ended", || !runs(&mark));
    let connected = reached().iter().filter(|address| address.ends_with(":2222")).count();
    assert_eq!(connected, 1);
    // The change was acknowledged, so it is on disk.
    assert_eq!(place.agentd(&["net", "dev"]), "granted.example:2222\n");
    assert_eq!(place.bash("dev", TALK), "hello\n");
    assert!(listed(": agentd ended before the end of the flow was recorded"));
    // The connection of TALK is also listed as open until the gateway has recorded its end.
    until("no connection is listed as open", || !listed(&open));
}

fn file(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    fs::create_dir(place.path("writable")).unwrap();
    let content = "allow = ['granted.example:2222']\ndeny_reason = 'ask the platform team'";
    fs::write(place.path("grants.toml"), content).unwrap();
    fs::write(place.path("writable/grants.toml"), content).unwrap();
    let writable = place.path("writable").display().to_string();
    let refused = place.refused(&["create", "dev", "--rw", &writable, "--net", &format!("file={writable}/grants.toml")]);
    assert!(refused.contains("the command could change this file"), "{refused}");
    place.agentd(&["create", "dev", "--rw", &writable, "--net", "file=grants.toml"]);
    fs::remove_file(place.path("grants.toml")).unwrap();
    place.stop();
    assert_eq!(place.bash("dev", TALK), "hello\n");
    place.bash("dev", "getent hosts other.example || true");
    // The record is complete when the processes have ended.
    place.stop();
    let output = place.net(&["log", "dev"]);
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("agentd: network: ask the platform team\n"), "{output:?}");
}

fn log(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "allow=granted.example:2222"]);
    place.agentd(&["create", "other", "--net", "log"]);
    assert_eq!(place.bash("dev", TALK), "hello\n");
    // A query for a name that would change a terminal.
    let ask = r"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'\0\7\1\0\0\1\0\0\0\0\0\0\10a\x1b[2J\n\x85b\7example\0\0\1\0\1', ('198.18.0.1', 53))
s.recv(512)
";
    place.agentd(&["exec", "dev", "--", "python3", "-c", ask]);
    place.bash("other", "getent hosts c.example || true");
    place.stop();
    let object: serde_json::Value = serde_json::from_slice(&place.net(&["log", "dev", "--json"]).stdout).unwrap();
    let flows = object["flows"].as_array().unwrap();
    let granted = flows.iter().find(|flow| flow["allowed"] == true).unwrap_or_else(|| panic!("{object:#}"));
    for (key, value) in [
        ("name", serde_json::json!("granted.example")),
        ("port", 2222.into()),
        ("connected", format!("{PUBLIC}:2222").into()),
        ("rule", "granted.example:2222".into()),
        ("sent_bytes", 6.into()),
        ("received_bytes", 6.into()),
    ] {
        assert_eq!(granted[key], value, "{key}: {granted:#}");
    }
    assert!(flows.iter().any(|flow| flow["allowed"] == false), "{object:#}");
    is_documented("`agentd net log --json`", 0, &[&object]);
    let lines = place.net(&["log"]).stdout;
    let harmful = |byte: &u8| *byte != b'\n' && (*byte < b' ' || *byte == 0x7f);
    let text = String::from_utf8(lines.clone()).unwrap();
    assert!(!lines.iter().any(harmful) && !text.contains('\u{85}'), "{text:?}");
    for part in [
        format!("Z dev allowed granted.example:2222 at {PUBLIC}:2222 by granted.example:2222, sent 6 bytes, received 6\n"),
        "Z other refused c.example: no network grant covers the name".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    // Every flow is one line.
    let all: serde_json::Value = serde_json::from_slice(&place.net(&["log", "--json"]).stdout).unwrap();
    let flows = all.as_array().unwrap().iter().map(|object| object["flows"].as_array().unwrap().len()).sum::<usize>();
    assert_eq!(text.lines().count(), flows);
    place.agentd(&["rm", "dev"]);
    assert!(!String::from_utf8(place.net(&["log"]).stdout).unwrap().contains("granted.example"));
}
