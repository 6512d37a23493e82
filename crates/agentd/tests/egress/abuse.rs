//! Sandboxes that flood their gateway: the memory of the gateway stays within its bound, and another sandbox is served meanwhile.

use crate::{
    EgressTest,
    outer::{self, PUBLIC},
    place::{EgressDir, TOOLS},
};
use agentd_egress::limits::FlowLimits;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

pub const TESTS: &[EgressTest] = &[
    ("floods_of_connections_queries_and_headers_stay_within_the_memory_of_the_gateway", floods),
    ("floods_of_inspected_requests_stay_within_the_memory_of_the_gateway", inspected_floods),
];

/// Memory of agentd without any flow, in bytes: its program, its threads, and the record of the flows for the user.
const BASE: usize = 64 << 20;

/// Continues queries of DNS and short connections until the process is killed.
const CONTINUED: &str = r"
import resource, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
address, flooded = (socket.gethostbyname(name + '.granted.example') for name in ('one', 'flooded'))
def labels(name): return b''.join(bytes([len(part)]) + part.encode() for part in name.split('.')) + b'\0'
def queries():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(('8.8.8.8', 53))
    number = 0
    while True:
        number += 1
        try: s.send(struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels('n%d.wide.example' % number) + b'\0\1\0\1')
        except OSError: pass
def connections():
    # The first packet of a connection is sent, and nothing waits for the answer.
    while True:
        for port in 2222, 853:
            s = socket.socket()
            s.setblocking(False)
            try: s.connect((flooded, port))
            except OSError: pass
            s.close()
for flood in queries, connections: threading.Thread(target=flood, daemon=True).start()
";

/// Half-open connections, and peers that send without an end or do not read.
const HELD: &str = r"
held = []
def open_one(port, data):
    try:
        s = socket.create_connection((address, port), 60)
        s.setblocking(False)
        held.append(s)
        while data: data = data[s.send(data):]
    except OSError: pass
for number in range(300): open_one(443, b'\x16\x03\x01\x40\x00' + b'x' * number)
for number in range(100): open_one(80, b'GET / HTTP/1.1\r\nHost: one.granted.example\r\n' + b'x: y\r\n' * 100_000)
for number in range(100): open_one(2222, b'x' * (4 << 20))
print('held', flush=True)
sys.stdin.read()
";

/// The maximum of the resident memory of a process so far, in bytes.
fn peak(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// Runs a script that prints `held`. Then runs a client in another sandbox, and returns the peak of the memory of the first
/// sandbox's gateway.
fn peak_of(backend: &str, options: &[&str], script: &str) -> usize {
    for name in ["granted.example", "one.granted.example"] {
        outer::name(name, &[PUBLIC]);
    }
    // The ports of the many connections to this address remain in use for a minute, but not for connections to another.
    outer::name("flooded.granted.example", &["93.184.216.99"]);
    let (place, other) = (EgressDir::new(), EgressDir::new());
    // Until its standard input is closed, the script holds what it has opened.
    let options = [&["-i"], options].concat();
    let mut command = place.trusting(backend, &options, &["/usr/bin/python3", "-c", &[TOOLS, script].concat()]);
    // The gateway is in the process of `agentd run`.
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let argv = ["curl", "-sS", "--cacert", "ca.pem", "https://granted.example/a"];
    let served = other.run(backend, &["--net", "allow=granted.example"], &argv);
    assert_eq!(String::from_utf8_lossy(&served.stdout), "tls /a", "{served:?}");
    let peak = peak(run.id());
    run.kill().unwrap();
    run.wait().unwrap();
    peak
}

fn floods(backend: &str) {
    let grants = "allow=*.granted.example,*.granted.example:80,*.granted.example:2222,*.wide.example:2222";
    let peak = peak_of(backend, &["--net", grants], &[CONTINUED, HELD].concat());
    let bound = BASE + FlowLimits { inspected: 0, ..FlowLimits::default() }.memory();
    assert!(peak < bound, "{peak} of {bound} bytes");
}

/// Headers without an end, many streams, and bombs of compressed headers (HPACK), in many inspected connections.
fn inspected_floods(backend: &str) {
    let script = r"
def frame(kind, flags, stream, payload): return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
preface = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'')
def text(value): return b'\x7f' + bytes([(len(value) - 127) & 127 | 128, (len(value) - 127) >> 7]) + value
# A field of 3 KiB enters the dynamic table, and each further byte repeats it.
bomb = frame(1, 4, 1, b'\x40' + b'\x01x' + text(b'y' * 3000) + b'\xbe' * 16000)
endless = [frame(1, 0, 1, b'\x82\x87')] + [frame(9, 0, 1, b'\x00\x01x\x01y' * 3000)] * 200
streams = [frame(1, 4, number, b'\x82\x87\x84\x41\x13one.granted.example') for number in range(1, 2001, 2)]
held = []
def inspected(protocol, parts):
    context = ssl.create_default_context()
    context.set_alpn_protocols([protocol])
    try:
        s = context.wrap_socket(socket.create_connection((address, 443), 60), server_hostname='one.granted.example')
        s.settimeout(5)
        held.append(s)
        for part in parts: s.sendall(part)
    except OSError: pass
def attack():
    for parts in [preface, bomb], [preface, *endless], [preface, *streams], [preface]:
        inspected('h2', parts)
    inspected('http/1.1', [b'GET /a HTTP/1.1\r\nHost: one.granted.example\r\n'] + [b'x: ' + b'y' * 1000 + b'\r\n'] * 1000)
    inspected('http/1.1', [b'POST /a HTTP/1.1\r\nHost: one.granted.example\r\nContent-Length: 1000000000\r\n\r\n'] + [b'y' * 65536] * 100)
threads = [threading.Thread(target=attack) for _ in range(24)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('held', flush=True)
sys.stdin.read()
";
    let options = ["--net", "allow=*.granted.example/*:/*,*.granted.example:2222"];
    let peak = peak_of(backend, &options, &[CONTINUED, script].concat());
    let bound = BASE + FlowLimits::default().memory();
    assert!(peak < bound, "{peak} of {bound} bytes");
}
