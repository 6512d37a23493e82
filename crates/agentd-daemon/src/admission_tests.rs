use super::*;
use crate::folder;
use std::{
    future::Future as _,
    io::{Read, Write},
    process::{Command, Stdio},
};
use tokio::task::unconstrained;

/// Returns a client at `place`, and the other end of its connection.
fn client_at(place: OtherNamespaces) -> (Candidate, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Candidate { connection: Connection::new(ours).unwrap(), peer: Peer::OtherNamespaces(place) }, theirs)
}

/// Returns a client that must prove that it has the key, and the other end of its connection.
fn elsewhere() -> (Candidate, UnixStream) {
    client_at(OtherNamespaces { namespace: "user", origin: None })
}

fn reason(refused: Result<(Request, Vec<OwnedFd>), Refusal>) -> KeyRefusal {
    match refused {
        Err(Refusal::Key(DaemonError::Key { namespace: "user", reason })) => reason,
        other => panic!("{other:?}"),
    }
}

fn hello() -> Vec<u8> {
    encode(&Hello { version: VERSION, nonce: Nonce::random().unwrap() }, 0).unwrap()
}

#[test]
fn messages_before_the_request_have_one_length() {
    let without = encode(&Hello { version: VERSION, nonce: Nonce::NONE }, 0).unwrap();
    assert_eq!((hello().len(), without.len()), (38, 38));
    assert_eq!(encode(&Answer(Tag::NONE), 0).unwrap().len(), 37);
}

// The clock is paused: it advances only when nothing else can happen.
#[tokio::test(start_paused = true)]
async fn client_elsewhere_that_sends_too_little_is_refused() {
    let all = Admission::new();
    for sent in [0, 1, hello().len() - 1] {
        let (mut client, mut theirs) = elsewhere();
        theirs.write_all(&hello()[..sent]).unwrap();
        assert!(matches!(reason(all.request(&mut client).await), KeyRefusal::Late), "{sent} bytes");
    }
    let (mut client, theirs) = elsewhere();
    drop(theirs);
    assert!(matches!(all.request(&mut client).await, Err(Refusal::Gone(_))));
}

#[tokio::test(start_paused = true)]
async fn client_of_other_version_is_refused_before_key_proof() {
    let (mut client, mut theirs) = elsewhere();
    theirs.write_all(&encode(&Hello { version: VERSION - 1, nonce: Nonce::NONE }, 0).unwrap()).unwrap();
    let refused = Admission::new().request(&mut client).await;
    assert!(matches!(refused, Err(Refusal::Version(version)) if version == VERSION - 1), "{refused:?}");
}

/// Returns the place of a process in a separate user namespace, as the daemon sees it.
fn place_of_payload() -> OtherNamespaces {
    let place = tempfile::tempdir().unwrap();
    let folder = folder::open(place.path()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(place.path().join(folder::FOLDER).join("socket")).unwrap();
    let connects = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('socket'); sys.stdin.read()";
    let mut payload = Command::new("unshare");
    payload.args(["--user", "python3", "-c", connects]).current_dir(place.path().join(folder::FOLDER));
    let mut payload = payload.stdin(Stdio::piped()).spawn().unwrap();
    let peer = peer::verify(listener.accept().unwrap().0.as_fd(), None).unwrap();
    drop(payload.stdin.take());
    payload.wait().unwrap();
    drop(folder);
    match peer {
        Peer::OtherNamespaces(place) => place,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn silent_clients_of_one_payload_do_not_lock_out_another_client() {
    let all = Admission::new();
    let place = place_of_payload();
    let (mut client, _theirs) = elsewhere();
    // Each poll belongs to this task, whose budget they would exceed.
    let mut honest = Box::pin(unconstrained(all.request(&mut client)));
    let mut silent: Vec<_> = (0..200).map(|_| client_at(place)).collect();
    let mut waits: Vec<_> = silent.iter_mut().map(|(client, _)| Box::pin(unconstrained(all.request(client)))).collect();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(honest.as_mut().poll(&mut context).is_pending());
    for wait in &mut waits {
        assert!(wait.as_mut().poll(&mut context).is_pending());
    }
    assert!(honest.as_mut().poll(&mut context).is_pending());
    let displaced: Vec<_> = waits.iter_mut().map(|wait| wait.as_mut().poll(&mut context).is_ready()).collect();
    // The other client uses one of the 64 places.
    assert_eq!(displaced, [[true].repeat(200 - 63), [false].repeat(63)].concat());
    let (mut client, _theirs) = elsewhere();
    let mut later = Box::pin(unconstrained(all.request(&mut client)));
    assert!(later.as_mut().poll(&mut context).is_pending() && honest.as_mut().poll(&mut context).is_pending());
    assert!(matches!(reason(later.await), KeyRefusal::Late));
}

#[tokio::test]
async fn descriptors_of_a_client_elsewhere_are_closed() {
    let (client, theirs) = elsewhere();
    let (mut kept, passed) = UnixStream::pair().unwrap();
    agentd_supervisor::channel::send_some(theirs.as_fd(), &hello(), &[passed.as_fd()]).unwrap();
    drop(passed);
    let mut message = hello();
    client.connection.receive_bytes(&mut message).await.unwrap();
    // The end of the stream: no process has the other end.
    assert_eq!(kept.read(&mut [0]).unwrap(), 0);
}

mod as_root {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn process_of_another_user_receives_the_reason_and_is_not_served() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder::open(place.path()).unwrap();
        let path = place.path().join(folder::FOLDER);
        let listener = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
        for open in [place.path().to_path_buf(), path.clone(), path.join("socket")] {
            std::fs::set_permissions(open, PermissionsExt::from_mode(0o777)).unwrap();
        }
        let reads = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('socket')\n\
                     while part := s.recv(4096): sys.stdout.buffer.write(part)";
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "65534", "--clear-groups", "python3", "-c", reads]).current_dir(&path);
        // The user may be unable to execute the first Python in PATH.
        let other = other.env("PATH", "/usr/bin:/bin").stdout(Stdio::piped()).spawn().unwrap();
        assert!(verify(listener.accept().unwrap().0, None).is_err());
        let received = other.wait_with_output().unwrap().stdout;
        let (reply, _, used) = decode::<Reply>(&received, MAX_FRAME).unwrap().unwrap();
        assert_eq!(used, received.len());
        let text = crate::client::unexpected(reply).to_string();
        assert!(text.contains("refused this client: verify the peer of the socket: the peer runs as uid 65534"), "{text}");
        assert!(text.contains(" — run client and daemon as the same user"), "{text}");
        drop(folder);
    }
}
