use super::*;
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
};

/// A client that connects to `socket` and then waits for the end of its standard input.
const CONNECTS: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect('socket'); sys.stdin.read()";

/// A client that connects and sends its end of the connection over the socket `passing`.
const PASSES: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect('socket')
p = socket.socket(socket.AF_UNIX); p.connect('passing')
socket.send_fds(p, [b'x'], [s.fileno()])";

struct PeerDir {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl PeerDir {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        Self { folder, listener }
    }

    /// Starts a Python client, with `before` as a command prefix.
    fn start(&self, before: &[&str], program: &str) -> Child {
        let argv = [before, &["python3", "-c", program]].concat();
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir(self.folder.path()).stdin(Stdio::piped()).spawn().unwrap()
    }

    /// Returns the result of verifying a live client that was started with the prefix `before`.
    fn verdict(&self, before: &[&str]) -> Result<Peer, PeerError> {
        let mut client = self.start(before, CONNECTS);
        let verdict = verify(self.listener.accept().unwrap().0.as_fd());
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        verdict
    }
}

/// Returns true for root. Only root can create a mount namespace without a user namespace.
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn peer_in_the_same_namespaces_is_here() {
    assert_eq!(PeerDir::new().verdict(&[]).unwrap(), Peer::Here);
}

#[test]
fn peer_in_a_child_user_namespace_is_elsewhere() {
    // An unmapped uid is reported as the overflow uid inside the namespace; the verifying process is outside and sees the real
    // uid.
    for user in [&["unshare", "--user"][..], &["unshare", "--user", "--map-root-user"]] {
        assert_eq!(PeerDir::new().verdict(user).unwrap(), Peer::Elsewhere("user"), "{user:?}");
    }
}

#[test]
fn peer_with_another_uid_that_is_root_in_its_user_namespace_is_refused() {
    // Only root can become another user.
    if root() {
        let place = PeerDir::new();
        for path in [place.folder.path().to_path_buf(), place.folder.path().join("socket")] {
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        }
        let other = ["setpriv", "--reuid", "65534", "--clear-groups", "unshare", "--user", "--map-root-user"];
        let refused = place.verdict(&other);
        assert!(matches!(refused, Err(PeerError::Uid(65534))), "{refused:?}");
    }
}

#[test]
fn peer_in_another_pid_namespace_is_elsewhere() {
    let (user, namespace): (&[&str], _) = if root() { (&[], "pid") } else { (&["--user"], "user") };
    let place = PeerDir::new().verdict(&[&["unshare", "--pid", "--fork"], user].concat()).unwrap();
    assert_eq!(place, Peer::Elsewhere(namespace));
}

/// Environment variable that marks the child process of the next test, which runs in its own PID namespace.
const INSIDE: &str = "AGENTD_TEST_PEER_OUTSIDE";

#[test]
fn peer_outside_this_pid_namespace_is_elsewhere() {
    if std::env::var_os(INSIDE).is_some() {
        // Standard input is a connection made by the process that started this one.
        let place = verify(std::io::stdin().as_fd());
        match crate::syscall::sockets::peer_pidfd(std::io::stdin().as_fd()) {
            Err(Errno::NOPROTOOPT) => assert!(matches!(place, Err(PeerError::Invisible)), "{place:?}"),
            _ => assert_eq!(place.unwrap(), Peer::Elsewhere("pid")),
        }
        return;
    }
    let place = PeerDir::new();
    let _client = UnixStream::connect(place.folder.path().join("socket")).unwrap();
    let (accepted, _) = place.listener.accept().unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--pid", "--fork"]).arg(std::env::current_exe().unwrap());
    inside.args(["--exact", "peer::tests::peer_outside_this_pid_namespace_is_elsewhere"]).env(INSIDE, "1");
    let output = inside.stdin(OwnedFd::from(accepted)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn peer_in_another_mount_namespace_is_here() {
    // An unprivileged user cannot create a mount namespace without a user namespace.
    if root() {
        assert_eq!(PeerDir::new().verdict(&["unshare", "--mount"]).unwrap(), Peer::Here);
    }
}

#[test]
fn peer_that_exits_after_connecting_is_refused() {
    for before in [&[][..], &["unshare", "--user"]] {
        exits_after_connecting(before);
    }
}

fn exits_after_connecting(before: &[&str]) {
    let place = PeerDir::new();
    let mut client = place.start(before, CONNECTS);
    let (accepted, _) = place.listener.accept().unwrap();
    drop(client.stdin.take());
    client.wait().unwrap();
    let refused = verify(accepted.as_fd());
    assert!(matches!(refused, Err(PeerError::Ended)), "{refused:?}");
}

#[test]
fn peer_that_is_a_zombie_is_refused() {
    let place = PeerDir::new();
    let mut client = place.start(&[], CONNECTS);
    let (accepted, _) = place.listener.accept().unwrap();
    let process = pidfd_open(Pid::from_child(&client), PidfdFlags::empty()).unwrap();
    drop(client.stdin.take());
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
    let refused = verify(accepted.as_fd());
    client.wait().unwrap();
    assert!(matches!(refused, Err(PeerError::Ended)), "{refused:?}");
}

/// Has a client send its end of a connection to this process (SCM_RIGHTS), and returns the result of verifying the accepted end.
fn passed(place: &PeerDir, before: &[&str], keeps_living: bool) -> Result<Peer, PeerError> {
    let passing = UnixListener::bind(place.folder.path().join("passing")).unwrap();
    let program = if keeps_living { format!("{PASSES}; sys.stdin.read()") } else { PASSES.to_owned() };
    let mut client = place.start(before, &program);
    let (accepted, _) = place.listener.accept().unwrap();
    let (mut message, _) = passing.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(&message, &mut parts, &mut control, rustix::net::RecvFlags::empty()).unwrap();
    let received = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    // This process now holds the client's end, and is itself in the right namespaces.
    let mut held = UnixStream::from(received.unwrap());
    if !keeps_living {
        drop(client.stdin.take());
        client.wait().unwrap();
    }
    held.write_all(b"x").unwrap();
    let mut received = [0];
    (&accepted).read_exact(&mut received).unwrap();
    let verdict = verify(accepted.as_fd());
    drop(client.stdin.take());
    client.wait().unwrap();
    message.write_all(b"x").ok();
    verdict
}

#[test]
fn peer_of_socket_passed_out_of_a_user_namespace_is_elsewhere() {
    let place = PeerDir::new();
    assert_eq!(passed(&place, &["unshare", "--user"], true).unwrap(), Peer::Elsewhere("user"));
}

#[test]
fn socket_passed_on_by_a_peer_that_exits_is_refused() {
    let place = PeerDir::new();
    for before in [&[][..], &["unshare", "--user"]] {
        let place = if before.is_empty() { &place } else { &PeerDir::new() };
        let refused = passed(place, before, false);
        assert!(matches!(refused, Err(PeerError::Ended)), "{refused:?}");
    }
}

#[test]
fn exited_peer_without_so_peerpidfd_is_refused() {
    let place = PeerDir::new();
    let mut client = place.start(&[], CONNECTS);
    let (accepted, _) = place.listener.accept().unwrap();
    let pid = Pid::from_child(&client);
    let opened = open_by_number(accepted.as_fd(), pid).unwrap();
    assert!(lives(&opened).unwrap());
    drop(client.stdin.take());
    client.wait().unwrap();
    assert!(!lives(&opened).unwrap());
    assert_eq!(open_by_number(accepted.as_fd(), pid).err(), Some(Errno::SRCH));
}
