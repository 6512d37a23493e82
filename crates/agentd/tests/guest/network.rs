//! Granted hosts of a sandbox in a guest: the real agent carries the connections of real programs to the gateway on the host.

use super::{
    RunningGuest, identity, line, out, script,
    support::machine::{Machines, Process},
};
use agentd::isolation::{
    Command, ExecHandle, IsolationError, Network, NetworkFlow, NetworkSecret, NetworkVerdict, Sandbox, SandboxSpec, StdinSource,
    guest::{Attach, GuestSandbox, GuestSpec},
};
use agentd_egress::inspect::roots::TrustedRoots;
use agentd_isolation::egress::raise_descriptor_limit;
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener},
    thread,
    time::Duration,
};
use tokio::{net::UnixStream, task::block_in_place};

/// Functions of the scripts. `talk` sends a text, and prints the answer or the name of the error.
const TOOLS: &str = "
import errno, hashlib, socket, sys, threading
def talk(host, port, text):
    try:
        s = socket.create_connection((host, port), 60)
        s.sendall(text.encode())
        print(host, port, s.recv(100).decode() or 'end', flush=True)
        return s
    except socket.gaierror: print(host, port, 'no such name', flush=True)
    except OSError as e: print(host, port, errno.errorcode.get(e.errno, e), flush=True)
";

/// Starts a server that returns what it receives.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            thread::spawn(move || {
                let mut other = client.try_clone().unwrap();
                let _ = io::copy(&mut client, &mut other);
                let _ = client.shutdown(Shutdown::Write);
            });
        }
    });
    at
}

fn granted(grants: &[&str]) -> Network {
    Network::Egress(grants.iter().map(|grant| (*grant).to_owned()).collect())
}

async fn guest(grants: &[&str]) -> RunningGuest {
    with(SandboxSpec { network: granted(grants), ..SandboxSpec::default() }).await
}

async fn with(spec: SandboxSpec) -> RunningGuest {
    try_with(spec).await.unwrap()
}

async fn try_with(spec: SandboxSpec) -> Result<RunningGuest, IsolationError> {
    // The gateways of a process share its descriptors.
    raise_descriptor_limit().unwrap();
    let (machine, socket) = Process::listening(&Machines::new());
    let transport = UnixStream::connect(&socket).await.unwrap();
    let spec = GuestSpec { spec, identity: Some(identity("first")), copies: None };
    let opened = GuestSandbox::open(Machines::new().id(), machine.clone(), transport, Attach::New(spec.into())).await;
    Ok(RunningGuest { sandbox: opened?, machine, socket })
}

fn python(text: &str) -> Command {
    Command { argv: ["/usr/bin/python3", "-c", &[TOOLS, text].concat()].map(Into::into).to_vec(), ..script("") }
}

async fn run(guest: &RunningGuest, text: &str) -> String {
    let outcome = guest.sandbox.exec(python(text)).await.unwrap();
    assert_eq!(outcome.exit_code, Some(0), "{text}: {outcome:?}");
    out(&outcome)
}

/// Ends the sandbox, and returns its flows.
async fn flows(guest: RunningGuest) -> Vec<NetworkFlow> {
    let log = guest.sandbox.network_log().unwrap();
    guest.sandbox.destroy().await.unwrap();
    let flows = std::iter::from_fn(|| block_in_place(|| log.next(Duration::from_secs(60))));
    let flows: Vec<_> = flows.collect();
    assert!(flows.iter().all(|flow| flow.from_guest), "{flows:?}");
    flows
}

pub async fn programs_in_a_guest_reach_granted_hosts_only() {
    let (server, other) = (echo(), echo());
    let guest = guest(&[&server.to_string(), "granted.invalid:2222"]).await;
    let (port, beside) = (server.port(), other.port());
    let script = format!(
        "
talk('127.0.0.1', {port}, 'hello')
talk('127.0.0.2', {port}, 'hello')
talk('127.0.0.1', {beside}, 'hello')
talk('169.254.169.254', {port}, 'hello')
talk('::1', {port}, 'hello')
talk('other.invalid', 2222, 'hello')
talk('granted.invalid', 2222, 'hello')
print(socket.gethostbyname('granted.invalid').startswith('198.18.'))
"
    );
    let printed = run(&guest, &script).await;
    let expected = [
        format!("127.0.0.1 {port} hello"),
        format!("127.0.0.2 {port} ECONNRESET"),
        format!("127.0.0.1 {beside} ECONNREFUSED"),
        format!("169.254.169.254 {port} ECONNRESET"),
        format!("::1 {port} ECONNRESET"),
        "other.invalid 2222 no such name".to_owned(),
        "granted.invalid 2222 ECONNRESET".to_owned(),
        "True".to_owned(),
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    let flows = flows(guest).await;
    let reached: Vec<_> = flows.iter().filter_map(|flow| flow.connected).collect();
    assert_eq!(reached, [server]);
    let refused = |to: SocketAddr| {
        flows.iter().any(|flow| flow.wanted == Some(to) && matches!(flow.verdict, NetworkVerdict::Refused { .. }))
    };
    for to in [format!("127.0.0.2:{port}"), format!("169.254.169.254:{port}"), format!("[::1]:{port}")] {
        assert!(refused(to.parse().unwrap()), "{to}: {flows:?}");
    }
    assert!(flows.iter().any(|flow| flow.name.as_deref() == Some("other.invalid")), "{flows:?}");
}

pub async fn attempts_at_other_ports_are_recorded_as_the_word_of_the_guest() {
    let guest = guest(&["granted.invalid:2222"]).await;
    let script = "
talk('93.184.216.34', 853, 'x')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('93.184.216.34', 443))
s.send(b'x')
try: s.recv(1)
except ConnectionRefusedError: print('refused')
";
    assert_eq!(run(&guest, script).await, "93.184.216.34 853 ECONNREFUSED\nrefused\n");
    let log = guest.sandbox.network_log().unwrap();
    let mut wanted: Vec<_> =
        (0..2).map(|_| block_in_place(|| log.next(Duration::from_secs(60))).unwrap()).map(|flow| flow.wanted.unwrap()).collect();
    wanted.sort_unstable();
    assert_eq!(wanted, ["93.184.216.34:443", "93.184.216.34:853"].map(|to| to.parse::<SocketAddr>().unwrap()));
    guest.sandbox.destroy().await.unwrap();
}

pub async fn much_data_passes_unchanged_in_both_directions_with_half_close() {
    let server = echo();
    let guest = guest(&[&server.to_string()]).await;
    let script = format!(
        "
def one(seed, results):
    data = bytes((seed * n * n >> 7) & 255 for n in range(4096)) * 1024
    s = socket.create_connection(('127.0.0.1', {}), 60)
    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = s.makefile('rb').read()
    results.append(got == data)
results = []
threads = [threading.Thread(target=one, args=(seed, results)) for seed in range(3, 9)]
for t in threads: t.start()
for t in threads: t.join()
print(results)
",
        server.port()
    );
    assert_eq!(run(&guest, &script).await, "[True, True, True, True, True, True]\n");
    let flows = flows(guest).await;
    let whole = |flow: &&NetworkFlow| {
        (flow.sent, flow.received) == (4 << 20, 4 << 20) && matches!(flow.verdict, NetworkVerdict::Granted { cut: None, .. })
    };
    assert_eq!((flows.len(), flows.iter().filter(whole).count()), (6, 6), "{flows:?}");
}

pub async fn data_that_a_guest_sent_just_before_its_end_arrives() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let guest = guest(&[&server.to_string()]).await;
    let text = format!("s = socket.create_connection(('127.0.0.1', {})); s.sendall(b'last')", server.port());
    run(&guest, &text).await;
    let received = thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all
    });
    let flows = flows(guest).await;
    assert_eq!(block_in_place(|| received.join().unwrap()), b"last");
    assert_eq!(flows.iter().map(|flow| flow.sent).collect::<Vec<_>>(), [4], "{flows:?}");
}

/// Starts a program that holds a connection, and sends a line for each line that it reads.
async fn holder(guest: &RunningGuest, server: SocketAddr) -> (Box<dyn ExecHandle>, File, File) {
    let text = format!(
        "
s = talk('127.0.0.1', {}, 'first')
for line in sys.stdin:
    try:
        s.sendall(line.encode())
        print(s.recv(100).decode().strip() or 'end', flush=True)
    except OSError as e: print(errno.errorcode[e.errno], flush=True)
",
        server.port()
    );
    let command = Command { stdin: StdinSource::Stream, ..python(&text) };
    let mut handle = guest.sandbox.exec_streaming(command).await.unwrap();
    let streams = handle.take_streams();
    let (stdin, mut stdout) = (File::from(streams.stdin.unwrap()), File::from(streams.stdout.unwrap()));
    assert_eq!(line(&mut stdout), format!("127.0.0.1 {} first\n", server.port()));
    (handle, stdin, stdout)
}

pub async fn open_connection_continues_after_the_machine_was_saved() {
    let server = echo();
    let guest = guest(&[&server.to_string()]).await;
    let (_handle, mut stdin, mut stdout) = holder(&guest, server).await;
    for round in 0..5 {
        guest.sandbox.guest().quiesce().await.unwrap();
        writeln!(stdin, "{round}").unwrap();
        guest.sandbox.guest().proceed(guest.connect().await).await.unwrap();
        assert_eq!(line(&mut stdout), format!("{round}\n"));
    }
    assert_eq!(
        run(&guest, &format!("talk('127.0.0.1', {}, 'new')", server.port())).await,
        format!("127.0.0.1 {} new\n", server.port())
    );
    guest.sandbox.destroy().await.unwrap();
}

pub async fn restored_machine_has_new_connections_and_the_old_ones_end_with_the_reason() {
    let (server, later) = (echo(), echo());
    let guest = guest(&[&server.to_string()]).await;
    let log = guest.sandbox.network_log().unwrap();
    let _held = holder(&guest, server).await;
    guest.sandbox.guest().quiesce().await.unwrap();
    guest.sandbox.guest().adopt(guest.connect().await, identity("second")).await.unwrap();
    let flow = block_in_place(|| log.next(Duration::from_secs(60))).unwrap();
    let NetworkVerdict::Granted { cut: Some(cut), .. } = flow.verdict else { panic!("{flow:?}") };
    assert!(cut.contains("an earlier state of the machine was restored"), "{cut}");
    let talk = |to: SocketAddr| format!("talk('127.0.0.1', {}, 'x')", to.port());
    assert_eq!(run(&guest, &talk(server)).await, format!("127.0.0.1 {} x\n", server.port()));
    // The granted hosts still change.
    guest.sandbox.set_network(&granted(&[&later.to_string()])).await.unwrap();
    assert_eq!(run(&guest, &talk(server)).await, format!("127.0.0.1 {} ECONNRESET\n", server.port()));
    assert_eq!(run(&guest, &talk(later)).await, format!("127.0.0.1 {} x\n", later.port()));
    guest.sandbox.destroy().await.unwrap();
}

pub async fn copy_of_a_machine_has_a_gateway_of_its_own() {
    let server = echo();
    let guest = guest(&[&server.to_string()]).await;
    let copy = guest.sandbox.guest().copy_of_gateway().await.unwrap().unwrap();
    assert_eq!(copy.network(), granted(&[&server.to_string()]));
    // Neither a change nor a connection of one is seen by the other.
    guest.sandbox.set_network(&granted(&[])).await.unwrap();
    assert_eq!(copy.network(), granted(&[&server.to_string()]));
    assert_eq!(
        run(&guest, &format!("talk('127.0.0.1', {}, 'x')", server.port())).await,
        format!("127.0.0.1 {} ECONNRESET\n", server.port())
    );
    copy.stop().await;
    assert_eq!(copy.log().next(Duration::ZERO), None);
    assert_eq!(flows(guest).await.len(), 1);
}

pub async fn trust_stores_and_placeholders_reach_the_guest_and_the_secret_does_not() {
    const VALUE: &str = "real-value-1f0e6d9c4bb84e52";
    let secrets = vec![NetworkSecret::new("API_KEY@granted.invalid", VALUE.to_owned())];
    let network = granted(&["granted.invalid:443"]);
    let spec = SandboxSpec { network, secrets, ..SandboxSpec::default() };
    // A minimal host trusts no authority. The sandbox is then not created.
    if let Err(error) = TrustedRoots::host() {
        let refused = try_with(spec).await.err().unwrap().to_string();
        assert!(refused.contains(&error.to_string()), "{refused}");
        return;
    }
    let guest = with(spec).await;
    let environment = guest.sandbox.network_environment();
    let show = "ls /dev/agentd; grep -c BEGIN /dev/agentd/ca-certificates.crt >/dev/null && echo certificates; env; \
                cat /proc/self/environ";
    let mut command = script(show);
    command.env.extend(environment);
    let printed = out(&guest.sandbox.exec(command).await.unwrap());
    for part in ["ca-certificates.crt\nca-certificates.jks\ncertificates\n", "SSL_CERT_FILE=/dev/agentd/", "API_KEY="] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!printed.contains(VALUE), "{printed}");
    guest.sandbox.destroy().await.unwrap();
}

pub async fn connections_beyond_the_limit_wait_and_are_served_later() {
    let server = echo();
    let guest = guest(&[&server.to_string()]).await;
    // More than the gateway of a machine carries at once.
    let script = format!(
        "
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
all = [socket.create_connection(('127.0.0.1', {}), 60) for _ in range(600)]
served = 0
while all:
    s = all.pop(0)
    s.sendall(b'x')
    served += s.recv(1) == b'x'
    s.close()
print(served)
",
        server.port()
    );
    assert_eq!(run(&guest, &script).await, "600\n");
    assert_eq!(flows(guest).await.len(), 600);
}
