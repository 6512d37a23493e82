use super::*;
use agentd_core::Command;
use agentd_sandboxes::SandboxSettings;
use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::Child,
};

/// A process that listens in place of the daemon, and prints the number of bytes that each client has sent when it disconnects.
/// It replies to the first message with a challenge in which its own number and its proof are copies of the client's number.
const LISTENS: &str = r"
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind('socket')
listener.listen()
print('listens', flush=True)
while True:
    client, _ = listener.accept()
    received = client.recv(38)
    if len(received) == 38:
        client.sendall(bytes([65, 0, 0, 0, 0, 8]) + received[6:] + received[6:])
    while more := client.recv(1 << 20):
        received += more
    print(len(received), flush=True)
";

struct Impostor {
    place: tempfile::TempDir,
    process: Child,
    lines: std::io::Lines<BufReader<process::ChildStdout>>,
}

impl Impostor {
    /// Starts the process, with `before` as a command prefix.
    fn start(before: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        folder::open(place.path()).unwrap();
        for open in [place.path().to_path_buf(), folder::path_of(place.path())] {
            std::fs::set_permissions(open, PermissionsExt::from_mode(0o777)).unwrap();
        }
        let argv = [before, &["python3", "-c", LISTENS]].concat();
        let mut python = process::Command::new(argv[0]);
        // Another user may be unable to execute the first Python in PATH.
        python.args(&argv[1..]).current_dir(folder::path_of(place.path())).env("PATH", "/usr/bin:/bin");
        python.stdout(Stdio::piped());
        let mut process = python.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "listens");
        Self { place, process, lines }
    }

    fn client(&self) -> Client {
        // No other daemon can be started.
        Client::new(self.place.path(), vec!["/nonexistent".into()])
    }

    fn socket(&self) -> std::path::PathBuf {
        folder::path_of(self.place.path()).join("socket")
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Sends requests of several kinds, which must fail, and returns their errors.
async fn errors(client: &Client) -> Vec<DaemonError> {
    let name = "dev".parse().unwrap();
    let secret = Command { argv: vec!["true".into()], env: vec![("KEY".into(), "secret".into())], ..Command::default() };
    vec![
        client.status().await.unwrap_err(),
        client.daemon().await.unwrap_err(),
        client.create(&name, SandboxSettings::default(), false).await.unwrap_err(),
        client.exec(&name, secret, true).await.map(drop).unwrap_err(),
    ]
}

#[tokio::test]
async fn payload_that_listens_in_place_of_the_daemon_gets_no_request() {
    for before in [&["unshare", "--user"][..], &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]] {
        let mut impostor = Impostor::start(before);
        let client = impostor.client();
        assert!(client.is_elsewhere().unwrap());
        // The impostor reports the number of bytes that it received on that connection.
        assert_eq!(impostor.lines.next().unwrap().unwrap(), "0");
        for error in errors(&client).await {
            let received: usize = impostor.lines.next().unwrap().unwrap().parse().unwrap();
            match error {
                // The user of this test may have a key.
                DaemonError::Key { namespace: "user", reason: KeyRefusal::Impostor(_) } => assert_eq!(received, 38),
                DaemonError::Key { namespace: "user", reason: KeyRefusal::Missing(_) } => assert_eq!(received, 0),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn daemon_of_another_user_is_an_error_that_names_it() {
    // Only root can become another user. To another user, the socket of a daemon is one without access.
    let root = rustix::process::geteuid().is_root();
    let before: &[&str] = if root { &["setpriv", "--reuid", "65534", "--clear-groups"] } else { &[] };
    let impostor = Impostor::start(before);
    if !root {
        std::fs::set_permissions(impostor.socket(), PermissionsExt::from_mode(0o000)).unwrap();
    }
    let client = impostor.client();
    let mut all = errors(&client).await;
    all.push(client.is_elsewhere().unwrap_err());
    for error in all {
        let text = error.to_string();
        match error {
            DaemonError::OtherUser { uid: 65534, .. } => {
                assert!(text.contains("uid 65534") && text.contains("run agentd as that user"), "{text}");
            }
            DaemonError::Unreachable { source, .. } if !root => assert_eq!(source.kind(), io::ErrorKind::PermissionDenied),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn daemon_that_has_ended_since_it_listened_counts_as_none() {
    let place = tempfile::tempdir().unwrap();
    folder::open(place.path()).unwrap();
    // A child keeps the socket open.
    let listens =
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen(); os.fork() or sys.stdin.read()";
    let mut python = process::Command::new("python3");
    python.args(["-c", listens]).current_dir(folder::path_of(place.path())).stdin(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let child = python.stdin.take();
    python.wait().unwrap();
    let client = Client::new(place.path(), Vec::new());
    assert!(folder::connect(&client.folder().unwrap().unwrap()).is_ok());
    assert_eq!(client.daemon().await.unwrap(), None);
    drop(child);
}

#[tokio::test]
async fn client_that_the_daemon_refuses_before_reading_reports_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let folder = folder::open(place.path()).unwrap();
    let listener = folder::listen(&folder).unwrap();
    let client = Client::new(place.path(), Vec::new());
    let daemon = async {
        for _ in 0..2 {
            let refused = Connection::new(listener.accept().await.unwrap().0.into_std().unwrap()).unwrap();
            refused.send(&Reply::Failed(crate::protocol::Failure::Other("no peer — go".to_owned())), &[]).unwrap();
        }
    };
    let asked = async { (client.status().await.unwrap_err(), client.daemon().await.unwrap_err()) };
    let ((), (status, about)) = tokio::join!(daemon, asked);
    assert_eq!([status.to_string(), about.to_string()], ["no peer — go", "no peer — go"]);
    // The connection is closed before the client has sent anything.
    let listening = client.find(&folder).unwrap().unwrap();
    let refused = Connection::new(listener.accept().await.unwrap().0.into_std().unwrap()).unwrap();
    refused.send(&Reply::Failed(crate::protocol::Failure::Other("closed — go".to_owned())), &[]).unwrap();
    drop(refused);
    let reply = client.send(listening, &Request::Status, &[]).await.unwrap().receive::<Reply>().await.unwrap().0;
    assert_eq!(unexpected(reply).to_string(), "closed — go");
    assert!(unexpected(Reply::Done).to_string().contains("unexpected message of kind done — run `agentd daemon stop`"));
}
