//! UDP to granted hosts, from real sandboxes.

use crate::{
    EgressTest,
    named_place::NamedDir,
    outer::{PUBLIC, name, reached},
    place::{EgressDir, TOOLS},
};

pub const TESTS: &[EgressTest] = &[("granted_datagrams_are_answered_and_all_others_are_refused", carried)];

/// Tests of named sandboxes.
pub const NAMED_TESTS: &[EgressTest] = &[("datagram_grant_changes_at_once_in_a_named_sandbox", change)];

const ASK: &str = "
def ask(host, port, data):
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(60)
        s.connect((host, port))
        s.send(data)
        print(host, port, s.recv(100).decode())
    except Exception as e: print(host, port, error(e))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('9.9.9.9', 123))
ask('granted.example', 123, b'one')
ask('granted.example', 124, b'two')
ask('granted.example', 443, b'three')
";

fn carried(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let (out, err) = EgressDir::new().python(backend, "granted.example:123/udp,granted.example:443", ASK);
    let expected = ["granted.example 123 one", "granted.example 124 ECONNREFUSED", "granted.example 443 ECONNREFUSED"];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected, "{err}");
    assert_eq!(reached(), [format!("{PUBLIC}:123")]);
    for line in [
        "9.9.9.9:123 was refused: no network grant covers UDP to this destination — allow it with --net allow=9.9.9.9:123/udp",
        "granted.example:124 was refused: no network grant covers UDP to this destination — allow it with --net \
         allow=granted.example:124/udp",
        "granted.example:443 was refused: no network grant covers UDP to this destination — let the program use TCP",
    ] {
        assert!(err.contains(line), "{line}: {err}");
    }
    // The record has the datagrams of a flow, and no attempt that was none.
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, ASK].concat()];
    let output = EgressDir::new().run(backend, &["--json", "--net", "allow=granted.example:123/udp"], &argv);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let flows = object["network"]["flows"].as_array().unwrap();
    let granted: Vec<_> = flows.iter().filter(|flow| flow["allowed"] == true).collect();
    let [flow] = &granted[..] else { panic!("{object:#}") };
    assert_eq!((&flow["to"], &flow["rule"]), (&"granted.example:123".into(), &"granted.example:123/udp".into()));
    assert_eq!((&flow["sent_datagrams"], &flow["received_datagrams"]), (&1.into(), &1.into()), "{object:#}");
    assert_eq!((&flow["sent_bytes"], &flow["received_bytes"]), (&3.into(), &3.into()), "{object:#}");
}

fn change(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "allow=granted.example:2222"]);
    let talk = |seconds: u32| {
        let script = format!(
            "(exec 3<>/dev/udp/granted.example/123 && echo hello >&3 && timeout {seconds} head -n1 <&3) 2>/dev/null || echo none"
        );
        place.bash("dev", &script)
    };
    assert_eq!(talk(60), "none\n", "the kernel refuses the datagram");
    place.agentd(&["net", "dev", "--allow", "granted.example:123/udp"]);
    assert_eq!(talk(60), "hello\n");
    assert_eq!(place.agentd(&["net", "dev"]), "granted.example:2222\ngranted.example:123/udp\n");
    place.agentd(&["net", "dev", "--revoke", "granted.example:123/udp"]);
    let before = reached().len();
    assert_eq!(talk(1), "none\n");
    assert_eq!(reached().len(), before);
}
