//! The namespace around the sandboxes, with servers at every address, and the name server of the host.

use crate::tls;
use agentd_kernel::{gateway, namespace};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::{
    collections::HashMap,
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{LazyLock, Mutex},
    thread,
    time::Duration,
};

/// Set in the process that runs the tests.
const ENTERED: &str = "AGENTD_TEST_EGRESS";

/// The uid and gid of an ordinary user in the namespace.
const INNER: u32 = 1000;

/// A public address, at which the servers of granted names listen.
pub const PUBLIC: &str = "93.184.216.34";

/// The answers of the name server. Each answer is used once, and the last one repeatedly.
static NAMES: LazyLock<Mutex<HashMap<String, Vec<Ipv4Addr>>>> = LazyLock::new(Mutex::default);
/// The heads of requests, each with the kind of its server.
static HEADS: Mutex<Vec<(&str, String)>> = Mutex::new(Vec::new());
/// The addresses at which a server was reached.
static REACHED: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// Moves this process, which has one thread, into namespaces, and executes it again as an ordinary process there.
pub fn enter() {
    if std::env::var_os(ENTERED).is_some() {
        return;
    }
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid().as_raw());
    let user = if uid.is_root() { UnshareFlags::empty() } else { UnshareFlags::NEWUSER };
    // SAFETY: the process has one thread, and no descriptor table is unshared.
    unsafe { unshare_unsafe(user | UnshareFlags::NEWNET) }.unwrap();
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny").unwrap();
        // Not the overflow uid, which agentd takes for that of another user in a namespace that does not map every uid.
        fs::write("/proc/self/uid_map", format!("{INNER} {uid} 1", uid = uid.as_raw())).unwrap();
        fs::write("/proc/self/gid_map", format!("{INNER} {gid} 1")).unwrap();
    }
    namespace::loopback_up().unwrap();
    // The sockets are not needed here.
    drop(gateway::prepare(&gateway::GatewayPorts::default()).unwrap());
    // The process of an ordinary user loses its capabilities when it executes the program.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").unwrap();
    panic!("{}", Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).env(ENTERED, "1").exec());
}

/// The environment variable that marks the process of [`lost_packets`].
const COUNTING: &str = "AGENTD_TEST_EGRESS_COUNT";

/// Prepares many network namespaces in another process, and sends a packet of IPv6 in each. Returns the number of those in which
/// the answer was lost.
pub fn lost_packets() -> String {
    let counting = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .env(COUNTING, "1")
        .output()
        .unwrap();
    assert!(counting.status.success(), "{counting:?}");
    String::from_utf8(counting.stdout).unwrap()
}

/// Counts the lost packets if this is the process of [`lost_packets`].
pub fn count_if_asked() {
    if std::env::var_os(COUNTING).is_none() {
        return;
    }
    let lost = (0..200).filter(|_| {
        // SAFETY: the process has one thread, and no descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        namespace::loopback_up().unwrap();
        let prepared = gateway::prepare(&gateway::GatewayPorts::default()).unwrap();
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.connect("[2606:4700::1111]:9").unwrap();
        socket.send(b"x").unwrap();
        let answer = socket.recv(&mut [0]).unwrap_err();
        drop(prepared);
        answer.kind() != io::ErrorKind::ConnectionRefused
    });
    io::stdout().write_all(lost.count().to_string().as_bytes()).unwrap();
    std::process::exit(0);
}

/// Starts the servers: TLS at 443, HTTP at 80, echo at 2222 and 853 over TCP, echo at 123 over UDP; any datagram at 443; the name
/// server.
pub fn serve() {
    listen(443, tls::serve);
    listen(80, |client| http(client, "http"));
    listen(2222, echo);
    listen(853, echo);
    listen(3128, proxy);
    let datagrams = UdpSocket::bind("0.0.0.0:443").unwrap();
    thread::spawn(move || {
        while datagrams.recv_from(&mut [0; 1500]).is_ok() {
            REACHED.lock().unwrap().push(datagrams.local_addr().unwrap());
        }
    });
    // Answers come from the address that was asked.
    let answered = UdpSocket::bind((PUBLIC, 123)).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 1500];
        loop {
            // An error is about an earlier answer, whose receiver has gone.
            if let Ok((length, from)) = answered.recv_from(&mut bytes) {
                REACHED.lock().unwrap().push(answered.local_addr().unwrap());
                let _ = answered.send_to(&bytes[..length], from);
            }
        }
    });
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok());
    let mut servers: Vec<IpAddr> = named.chain([Ipv4Addr::LOCALHOST.into()]).collect();
    servers.dedup();
    for server in servers {
        let socket = UdpSocket::bind((server, 53)).unwrap();
        thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
    }
}

/// Discards the names and connections of the previous test.
pub fn forget() {
    NAMES.lock().unwrap().clear();
    REACHED.lock().unwrap().clear();
    HEADS.lock().unwrap().clear();
}

/// Returns the heads of the requests that the servers of this kind got since the test began.
pub fn heads(kind: &str) -> Vec<String> {
    HEADS.lock().unwrap().iter().filter(|(of, _)| *of == kind).map(|(_, head)| head.clone()).collect()
}

/// Sets the addresses of a name: each query gets the next one, and all later queries the last one.
pub fn name(name: &str, answers: &[&str]) {
    NAMES.lock().unwrap().insert(name.to_owned(), answers.iter().rev().map(|text| text.parse().unwrap()).collect());
}

/// Returns the addresses at which a server was reached since the test began.
pub fn reached() -> Vec<String> {
    REACHED.lock().unwrap().iter().map(ToString::to_string).collect()
}

/// Waits until the echo server has received the end of a connection, or until the time limit of the suite.
pub fn wait_for_end(address: &str) {
    while !reached().contains(&format!("{address}:0")) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn listen(port: u16, serve: impl Fn(TcpStream) + Send + Copy + 'static) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let at = client.local_addr().unwrap();
            REACHED.lock().unwrap().push(SocketAddr::new(at.ip().to_canonical(), at.port()));
            thread::spawn(move || serve(client));
        }
    });
}

/// Answers one HTTP request with the kind of the server.
pub fn http(mut client: impl io::Read + io::Write, kind: &'static str) {
    let head = head(&mut client, kind);
    respond(client, "200 OK", "", format!("{kind} {}", target(&head)).as_bytes());
}

/// Sends a response with these lines in its head.
pub fn respond(mut client: impl io::Write, status: &str, lines: &str, body: &[u8]) {
    respond_with_length(&mut client, status, lines, body.len());
    let _ = client.write_all(body);
    let _ = client.flush();
}

/// Sends the head of a response whose body has this length.
pub fn respond_with_length(mut client: impl io::Write, status: &str, lines: &str, length: usize) {
    let _ = write!(client, "HTTP/1.1 {status}\r\nConnection: close\r\n{lines}Content-Length: {length}\r\n\r\n");
    let _ = client.flush();
}

/// Reads the head of a request.
pub fn head(client: &mut impl io::Read, kind: &'static str) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    // A gateway that refuses a request has already connected.
    if !head.is_empty() {
        HEADS.lock().unwrap().push((kind, head.clone()));
    }
    head
}

/// Returns the target of a request.
pub fn target(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

fn echo(mut client: TcpStream) {
    let mut other = client.try_clone().unwrap();
    let _ = io::copy(&mut client, &mut other);
    // The end of a connection is recorded as well.
    let at = client.local_addr().unwrap();
    REACHED.lock().unwrap().push(SocketAddr::new(at.ip().to_canonical(), 0));
}

/// An HTTP proxy that opens every tunnel.
fn proxy(mut client: TcpStream) {
    let head = head(&mut client, "proxy");
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let server = TcpStream::connect(target(&head)).unwrap();
    let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || io::copy(&mut up, &mut &server));
    let _ = io::copy(&mut down, &mut client);
}

/// Answers a query for an A record; every other query gets an empty answer.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).into_owned());
        at += 1 + length;
    }
    let question = query.get(12..at + 5)?;
    let is_a = question.ends_with(&[0, 1, 0, 1]);
    let mut names = NAMES.lock().unwrap();
    let known = names.get_mut(&labels.join(".").to_lowercase());
    let code = if known.is_some() { 0 } else { 3 };
    let address = known.filter(|_| is_a).map(|left| if left.len() > 1 { left.pop().unwrap() } else { left[0] });
    let mut answer = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(address) = address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
