use super::*;
use std::{
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
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
        let verdict = verify(self.listener.accept().unwrap().0.as_fd(), None);
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        verdict
    }
}

/// Returns the kind of namespace in which a peer differs that may be a payload and can be inspected.
fn elsewhere(verdict: &Result<Peer, PeerError>) -> &'static str {
    match verdict {
        Ok(Peer::OtherNamespaces(OtherNamespaces { namespace, origin: Some(_) })) => namespace,
        other => panic!("{other:?}"),
    }
}

/// Starts a process whose uid is the overflow uid, in a user namespace that maps it.
const MAPPED: &[&str] = &["unshare", "--user", "--map-user=65534"];

/// Returns true for root. Only root can create a mount namespace without a user namespace.
fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn peer_in_the_same_namespaces_is_here() {
    assert_eq!(PeerDir::new().verdict(&[]).unwrap(), Peer::SameNamespaces);
}

#[test]
fn peer_in_a_child_user_namespace_is_elsewhere() {
    // An unmapped uid is reported as the overflow uid inside the namespace; the verifying process is outside and sees the real
    // uid.
    for user in [&["unshare", "--user"][..], &["unshare", "--user", "--map-root-user"]] {
        assert_eq!(elsewhere(&PeerDir::new().verdict(user)), "user", "{user:?}");
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
    let place = PeerDir::new().verdict(&[&["unshare", "--pid", "--fork"], user].concat());
    assert_eq!(elsewhere(&place), namespace);
}

/// Environment variable that marks the child process of the next test, which runs in its own PID namespace.
const INSIDE: &str = "AGENTD_TEST_PEER_OUTSIDE";

#[test]
fn peer_outside_this_pid_namespace_is_elsewhere() {
    if std::env::var_os(INSIDE).is_some() {
        // Standard input is a connection made by the process that started this one.
        let place = verify(std::io::stdin().as_fd(), None);
        match crate::syscall::sockets::peer_pidfd(std::io::stdin().as_fd()) {
            Err(Errno::NOPROTOOPT) => assert!(matches!(place, Err(PeerError::Invisible)), "{place:?}"),
            _ => assert_eq!(place.unwrap(), Peer::OtherNamespaces(OtherNamespaces { namespace: "pid", origin: None })),
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
fn peer_in_other_mount_net_ipc_or_cgroup_namespace_differs() {
    // An unprivileged user cannot create such a namespace without a user namespace.
    if root() {
        for (option, kind) in [("--mount", "mnt"), ("--net", "net"), ("--ipc", "ipc"), ("--cgroup", "cgroup")] {
            assert_eq!(PeerDir::new().verdict(&["unshare", option]).unwrap(), Peer::DiffersIn(kind));
        }
    }
}

#[test]
fn peer_in_the_mount_namespace_that_own_mounts_were_copied_from_is_here() {
    // Only root can have separate mounts.
    if !root() {
        return assert!(OwnMounts::take().is_err());
    }
    let place = PeerDir::new();
    let mut clients = [&[][..], &["unshare", "--mount"]].map(|before| {
        let client = place.start(before, CONNECTS);
        (client, place.listener.accept().unwrap().0)
    });
    let own = OwnMounts::take().unwrap();
    let verdicts = [0, 1].map(|client| [None, Some(&own)].map(|own| verify(clients[client].1.as_fd(), own).unwrap()));
    let differs = Peer::DiffersIn("mnt");
    assert_eq!(verdicts, [[differs, Peer::SameNamespaces], [differs, differs]]);
    for (client, _) in &mut clients {
        drop(client.stdin.take());
        client.wait().unwrap();
    }
}

#[test]
fn peer_with_the_overflow_uid_is_refused_where_not_every_uid_is_mapped() {
    const TEST: &str = "peer::tests::peer_with_the_overflow_uid_is_refused_where_not_every_uid_is_mapped";
    if std::env::var_os(INSIDE).is_some() {
        // The user namespace does not map the uid of the process that connected, and this process has the overflow uid.
        let refused = verify(std::io::stdin().as_fd(), None);
        assert!(matches!(refused, Err(PeerError::Unmapped(65534))), "{refused:?}");
        return;
    }
    let place = PeerDir::new();
    let _client = UnixStream::connect(place.folder.path().join("socket")).unwrap();
    let (accepted, _) = place.listener.accept().unwrap();
    let own = rustix::process::geteuid().as_raw();
    // Where the overflow uid is mapped, the peer must have another uid, as root does here.
    let maps = if own == 65534 { &[&["unshare", "--user"][..]][..] } else { &[&["unshare", "--user"], MAPPED] };
    for start in maps {
        let mut inside = Command::new(start[0]);
        inside.args(&start[1..]).arg(std::env::current_exe().unwrap()).args(["--exact", TEST]).env(INSIDE, "1");
        let output = inside.stdin(OwnedFd::from(accepted.try_clone().unwrap())).output().unwrap();
        assert!(output.status.success(), "{start:?}: {output:?}");
    }
}

#[test]
fn peer_cannot_be_inspected_with_the_proc_of_another_pid_namespace() {
    const TEST: &str = "peer::tests::peer_cannot_be_inspected_with_the_proc_of_another_pid_namespace";
    if std::env::var_os(INSIDE).is_some() {
        let refused = PeerDir::new().verdict(&[]);
        assert!(matches!(refused, Err(PeerError::Proc(ForeignProc))), "{refused:?}");
        return;
    }
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--pid", "--fork"]).arg(std::env::current_exe().unwrap());
    let output = inside.args(["--exact", TEST]).env(INSIDE, "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
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
    let refused = verify(accepted.as_fd(), None);
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
    let refused = verify(accepted.as_fd(), None);
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
    let verdict = verify(accepted.as_fd(), None);
    drop(client.stdin.take());
    client.wait().unwrap();
    message.write_all(b"x").ok();
    verdict
}

#[test]
fn peer_of_socket_passed_out_of_a_user_namespace_is_elsewhere() {
    let place = PeerDir::new();
    assert_eq!(elsewhere(&passed(&place, &["unshare", "--user"], true)), "user");
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
    // Another process, as if the peer had ended and its pid had been assigned to that process.
    assert_eq!(open_by_number(accepted.as_fd(), rustix::process::getpid()).err(), Some(Errno::SRCH));
    drop(client.stdin.take());
    client.wait().unwrap();
    assert!(!lives(&opened).unwrap());
    assert_eq!(open_by_number(accepted.as_fd(), pid).err(), Some(Errno::SRCH));
}
