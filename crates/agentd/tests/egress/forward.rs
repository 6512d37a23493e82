//! Ports of a named sandbox that are published on the host.

use crate::{
    EgressTest,
    named_place::{NamedDir, until},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixStream,
    },
    process::{Child, Stdio},
};

pub const TESTS: &[EgressTest] =
    &[("forwarded_port_is_reached_until_the_client_ends", forwarded), ("refused_forwarding_reports_its_cause", refused)];

/// Echo servers of both families, each at the loopback of its family.
const SERVE: &str = "
import os, socket, threading, time
def serve(s):
    while True:
        c, _ = s.accept()
        threading.Thread(target=echo, args=(c,)).start()
def echo(c):
    while data := c.recv(65536):
        c.sendall(data)
    c.sendall(b'end')
    c.close()
for family, host, port in ((socket.AF_INET, '127.0.0.1', 8080), (socket.AF_INET6, '::1', 8081)):
    s = socket.create_server((host, port), family=family)
    threading.Thread(target=serve, args=(s,)).start()
open('/ready', 'w')
";

/// A running `agentd sandbox forward`, and the address at which it listens.
struct Forwarding {
    client: Child,
    at: String,
}

impl Forwarding {
    fn start(place: &NamedDir, name: &str, port: &str) -> Self {
        let mut client = place.command(&["forward", name, port]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let at = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { client, at }
    }

    /// Interrupts the client, and returns its messages.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.client), Signal::INT).unwrap();
        let mut messages = String::new();
        self.client.stderr.take().unwrap().read_to_string(&mut messages).unwrap();
        assert_eq!(self.client.wait().unwrap().code(), Some(0));
        messages
    }
}

/// Sends data, then the end of the data, and returns the answer.
fn talk(mut stream: impl Read + Write, end: impl FnOnce()) -> String {
    stream.write_all(b"hello ").unwrap();
    end();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn talk_tcp(at: &str) -> String {
    let stream = TcpStream::connect(at).unwrap();
    let other = stream.try_clone().unwrap();
    talk(stream, || other.shutdown(Shutdown::Write).unwrap())
}

fn forwarded(_: &str) {
    let place = NamedDir::new();
    for net in ["off", "log"] {
        let name = format!("with-{net}");
        place.agentd(&["create", &name, "--net", net]);
        place.agentd(&["exec", "-d", &name, "--", "python3", "-c", SERVE]);
        until("the servers listen", || place.bash(&name, "test -e /ready && echo ready || true") == "ready\n");
        let v4 = Forwarding::start(&place, &name, "8080:127.0.0.1:0");
        let v6 = Forwarding::start(&place, &name, "8081:[::1]:0");
        assert!(v6.at.starts_with("[::1]:"), "{}", v6.at);
        for forwarding in [&v4, &v6] {
            assert_eq!(talk_tcp(&forwarding.at), "hello end", "{net}: {}", forwarding.at);
            assert_eq!(talk_tcp(&forwarding.at), "hello end", "{net}: a second connection");
        }
        let at = v4.at.clone();
        // An open connection also ends with the client.
        let mut open = TcpStream::connect(&at).unwrap();
        open.write_all(b"x").unwrap();
        open.read_exact(&mut [0]).unwrap();
        assert_eq!([v4.stop(), v6.stop()], ["", ""]);
        assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)));
        assert_eq!(TcpStream::connect(&at).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

        let socket = Forwarding::start(&place, &name, "8080:./socket");
        assert_eq!(fs::metadata(place.path("socket")).unwrap().permissions().mode() & 0o777, 0o600);
        let stream = UnixStream::connect(place.path("socket")).unwrap();
        let other = stream.try_clone().unwrap();
        let answer = talk(stream, || other.shutdown(Shutdown::Write).unwrap());
        assert_eq!(answer, "hello end", "{net}");
        assert_eq!(socket.stop(), "");
        assert!(!place.path("socket").exists());
        // A command exchanges the directory of the socket for a link.
        let [given, outside, moved] = ["given", "outside", "moved"].map(|directory| format!("{directory}-{name}"));
        fs::create_dir(place.path(&given)).unwrap();
        fs::create_dir(place.path(&outside)).unwrap();
        fs::write(place.path(&outside).join("socket"), "keep").unwrap();
        let socket = Forwarding::start(&place, &name, &format!("8080:./{given}/socket"));
        fs::rename(place.path(&given), place.path(&moved)).unwrap();
        symlink(place.path(&outside), place.path(&given)).unwrap();
        assert_eq!(socket.stop(), "");
        assert_eq!(fs::read_to_string(place.path(&outside).join("socket")).unwrap(), "keep");
        assert!(!place.path(&moved).join("socket").exists());
    }
}

fn refused(_: &str) {
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "allow=a.example:2222"]);
    fs::write(place.path("file"), "").unwrap();
    for (arguments, cause) in [
        (["missing", "8080"], "missing"),
        (["dev", "8080:0.0.0.0:8080"], "not a loopback address"),
        (["dev", "8080:./file"], "choose an unused path in a directory to which you may write"),
    ] {
        let refused = place.refused(&[&["forward"], &arguments[..]].concat());
        assert!(refused.contains(cause), "{arguments:?}: {refused}");
    }
    let messages = |port: &str| {
        let forwarding = Forwarding::start(&place, "dev", port);
        // The connection ends without data.
        let mut connection = TcpStream::connect(&forwarding.at).unwrap();
        assert!(matches!(connection.read(&mut [0]), Ok(0) | Err(_)));
        forwarding.stop()
    };
    assert!(
        messages("8080:127.0.0.1:0")
            .contains("no process runs in the sandbox — start the server with `agentd sandbox exec -d dev")
    );
    place.bash("dev", "true");
    assert!(messages("8080:127.0.0.1:0").contains("connect to port 8080 of the sandbox's loopback: Connection refused"));
    assert!(messages("2222:127.0.0.1:0").contains("the gateway to the granted hosts listens on this port"));
}
