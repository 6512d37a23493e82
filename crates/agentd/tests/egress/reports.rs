//! The output for the user: the plan, refusals with the option that allows the destination, and errors before anything runs.

use crate::json_document::is_documented;
use crate::{
    EgressTest,
    outer::{PUBLIC, name},
    place::{EgressDir, TOOLS},
};

pub const TESTS: &[EgressTest] = &[
    ("refused_destination_is_one_line_with_the_option_that_allows_it", refused),
    ("request_that_is_refused_later_on_its_connection_is_one_line_with_its_option", refused_later),
    ("log_allows_nothing_and_names_the_grants", log),
    ("preset_and_file_grant_their_hosts_and_the_file_explains_refusals", preset_and_file),
    ("json_has_the_flows_with_their_verdicts", json),
    ("attempts_at_other_ports_and_over_udp_are_recorded_in_both_families", attempts),
    ("explain_prints_what_is_allowed", explain),
    ("grants_that_cannot_be_enforced_are_errors_and_nothing_runs", invalid),
    ("run_that_cannot_record_attempts_reports_that_once", not_recorded),
    ("gateway_that_cannot_start_keeps_the_command_from_running", not_started),
    ("maximum_number_of_ports_is_granted", many_ports),
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

fn refused_later(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = r"
s = connect('granted.example', 80)
first, second = (b'%s HTTP/1.1\r\nHost: granted.example\r\nContent-Length: 0\r\n\r\n' % line for line in (b'GET /v1/a', b'POST /v1/b?key=x'))
s.sendall(first + second)
try:
    while s.recv(100): pass
except ConnectionResetError: pass
";
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let output = EgressDir::new().run(backend, &["--net", "allow=granted.example:80/GET:/v1/*"], &argv);
    let line = "agentd: network: POST /v1/b of granted.example:80 was refused: no network grant allows this method and path — allow it \
                with --net allow=granted.example:80/POST:/v1/b\n";
    assert_eq!(text(&output.stderr), line);
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
    let net = "allow=a.example,b.example:80,*.c.example:22,10.1.2.0/24:5432,10.1.2.0/24:514/udp";
    let output = EgressDir::new().run(backend, &["--explain", "--net", net], &["true"]);
    let text = text(&output.stdout);
    for line in [
        "allowed      a.example:443 (TLS for this name)",
        "allowed      b.example:80 (HTTP/1 requests to this host)",
        "allowed      *.c.example:22 (TCP, content not examined)",
        "allowed      10.1.2.0/24:5432 (TCP, content not examined)",
        "allowed      10.1.2.0/24:514/udp (UDP, content not examined)",
        "gateway      from this host, without a proxy",
        "recorded     each connection, and each attempt that is refused",
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
        ("allow=a.example/GET:/x,a.example:443/udp", "programs could send requests over UDP (QUIC)"),
        (many.as_str(), "25 different ports are granted; the maximum is 24"),
        ("host allow=a.example", "off or host is combined with another value"),
        ("a.example", "expected off, host, log, allow=HOSTS, approve=HOSTS, preset=NAMES or file=PATH"),
    ] {
        let options: Vec<&str> = net.split(' ').flat_map(|value| ["--net", value]).collect();
        let output = place.run(backend, &options, &["touch", "ran"]);
        assert_eq!(output.status.code(), Some(125), "{net:?}: {output:?}");
        assert!(text(&output.stderr).contains(message), "{net:?}: {output:?}");
    }
    assert!(!place.work().join("ran").exists());
}

fn attempts(backend: &str) {
    let script = "
def datagram(host, port, length):
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((host, port))
    # A new network namespace occasionally drops an IPv6 datagram.
    s.settimeout(1)
    while True:
        try:
            s.send(b'x' * length)
            print('received', s.recv(10))
        except ConnectionRefusedError: return
        except socket.timeout: pass
for host in '93.184.216.34', '2606:4700::1111', '127.0.0.1', '::1', '198.18.0.2', 'fd61:6765:6e74::2':
    try: print('connected', connect(host, 8443))
    except ConnectionRefusedError: pass
    datagram(host, 443, 1)
    datagram(host, 444, 40000)
datagram('::ffff:9.9.9.9', 7, 1)
";
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let output = EgressDir::new().run(backend, &["--json", "--net", "allow=granted.example:2222"], &argv);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["stdout"]["text"], &object["stderr"]["text"]), (&"".into(), &"".into()), "{object:#}");
    let flows = object["network"]["flows"].as_array().unwrap();
    assert!(flows.iter().all(|flow| flow["allowed"] == false), "{object:#}");
    assert!(flows.iter().any(|flow| flow["to"] == "93.184.216.34:8443" && flow["flows"] == 1), "{object:#}");
    let mut found: Vec<&str> = flows.iter().map(|flow| flow["to"].as_str().unwrap()).collect();
    found.sort_unstable();
    let expected = [
        "9.9.9.9:7",
        "93.184.216.34:443",
        "93.184.216.34:444",
        "93.184.216.34:8443",
        "[2606:4700::1111]:443",
        "[2606:4700::1111]:444",
        "[2606:4700::1111]:8443",
    ];
    assert_eq!(found, expected, "{object:#}");
}

/// Returns a program that refuses raw sockets of IPv4 and IPv6, as an outer sandbox may do, and then executes its arguments.
fn without_raw_sockets() -> String {
    // The offsets are those of `struct seccomp_data`: the number of the call, family and type.
    let filter = format!(
        "(0x20, 0, 0, 0), (0x15, 0, 7, {}), (0x20, 0, 0, 16), (0x15, 1, 0, {}), (0x15, 0, 4, {}), (0x20, 0, 0, 24), \
         (0x54, 0, 0, 0xf), (0x15, 0, 1, {}), (6, 0, 0, 0x50000 | {}), (6, 0, 0, 0x7fff0000)",
        libc::SYS_socket,
        libc::AF_INET,
        libc::AF_INET6,
        libc::SOCK_RAW,
        libc::EPERM
    );
    format!(
        "
import ctypes, os, struct, sys
filter = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in [{filter}]))
program = struct.pack('HP', 10, ctypes.addressof(filter))
prctl = ctypes.CDLL(None).prctl
assert prctl({}, 1, 0, 0, 0) == 0 and prctl({}, {}, program) == 0
os.execv(sys.argv[1], sys.argv[1:])
",
        libc::PR_SET_NO_NEW_PRIVS,
        libc::PR_SET_SECCOMP,
        libc::SECCOMP_MODE_FILTER
    )
}

fn not_recorded(backend: &str) {
    let place = EgressDir::new();
    let by = without_raw_sockets();
    let run = |option: &[&str]| {
        let options = [&["--net", "allow=granted.example:2222"], option].concat();
        let output = place.run_by(&["/usr/bin/python3", "-c", &by], backend, &options, &["bash", "-c", UNSEEN]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (text(&output.stdout), text(&output.stderr))
    };
    let note = "TCP to other ports and UDP are refused, but not recorded: create a raw socket in the sandbox's network: \
                Operation not permitted (os error 1) — in an outer sandbox, allow raw sockets";
    assert_eq!(run(&[]), ("refused\n".to_owned(), format!("agentd: partly enforced: network: {note}\n")));
    let (json, messages) = run(&["--json"]);
    let object: serde_json::Value = serde_json::from_str(&json).unwrap();
    let network: Vec<_> = object["controls"].as_array().unwrap().iter().filter(|report| report["control"] == "network").collect();
    assert_eq!(network.iter().map(|report| &report["status"]["partial"]).collect::<Vec<_>>(), [note], "{object:#}");
    assert_eq!((messages.as_str(), &object["network"]["flows"]), ("", &serde_json::json!([])), "{object:#}");
    let (plan, _) = run(&["--explain"]);
    assert_eq!(plan.lines().filter(|line| line.starts_with("recorded ")).collect::<Vec<_>>(), [format!("recorded     {note}")]);
}

const UNSEEN: &str = "(exec 3<>/dev/tcp/93.184.216.34/853) 2>/dev/null || echo refused";

/// The limit is too low for the minimum number of connections of a gateway, but suffices for everything else.
fn not_started(backend: &str) {
    let place = EgressDir::new();
    let by = ["sh", "-c", "ulimit -n 200 && exec \"$@\"", "sh"];
    let output = place.run_by(&by, backend, &["--net", "allow=granted.example"], &["touch", "ran"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("file descriptors, but this process may open only 200"), "{output:?}");
    assert!(!place.work().join("ran").exists());
    let without = place.run_by(&by, backend, &[], &["touch", "ran"]);
    assert!(without.status.success() && place.work().join("ran").exists(), "{without:?}");
}

fn many_ports(backend: &str) {
    let ports: Vec<String> = (1..=24).map(|port| format!("a.example:{}", 1000 + port)).collect();
    let net = format!("allow={}", ports.join(","));
    // The counters of a control group are in the same message as the sockets. Root can always create one.
    let limit: &[&str] = if rustix::process::geteuid().is_root() { &["--memory", "256M"] } else { &[] };
    let output = EgressDir::new().run(backend, &[&["--net", &net], limit].concat(), &["true"]);
    assert!(output.status.success(), "{output:?}");
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
