//! The proof of the boundary, if client and daemon are in different namespaces: no command runs without one.

use crate::{
    exchange::Exchange,
    place::{SandboxDir, program, text, until},
};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

/// A temporary directory in which nothing can be proven.
const UNUSABLE: &str = "/nonexistent";

/// The number of proofs during an exchange.
const PROOFS: u32 = 8;

const NOT_PROVEN: &str = "prove the boundary in the namespaces of the daemon";

/// Starts a process in other namespaces. Root can create sandboxes there.
fn elsewhere() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    } else {
        &["unshare", "--user", "--map-root-user"]
    }
}

/// Sandboxes of a user with a separate home directory.
struct Unproven {
    place: SandboxDir,
    daemon: Option<Child>,
}

impl Unproven {
    fn new() -> Self {
        let place = SandboxDir::new();
        for folder in ["home", "granted/tmp", "data/sandboxes/keeper"] {
            fs::create_dir_all(place.path(folder)).unwrap();
        }
        for private in ["data", "data/sandboxes", "data/sandboxes/keeper"] {
            fs::set_permissions(place.path(private), fs::Permissions::from_mode(0o700)).unwrap();
        }
        Self { place, daemon: None }
    }

    /// Returns the command `agentd` with `before` as a command prefix.
    fn agentd(&self, before: &[&str], temporary: &str, args: &[&str]) -> Command {
        let program = program();
        let argv = [before, &[program.as_str()], args].concat();
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir("/").env("HOME", self.place.path("home")).env("TMPDIR", temporary);
        command.env("AGENTD_DATA_DIR", self.place.path("data")).stdin(Stdio::null());
        command
    }

    fn run(&self, before: &[&str], temporary: &str, args: &[&str]) -> Output {
        self.agentd(before, temporary, args).output().unwrap()
    }

    /// Starts the daemon, and waits until it answers.
    fn serve(&mut self, before: &[&str], temporary: &str) {
        self.stop();
        let folder = self.place.path("data/sandboxes");
        let daemon = self.agentd(before, temporary, &["daemon", "serve", folder.to_str().unwrap()]).spawn();
        self.daemon = Some(daemon.unwrap());
        until("the daemon answers", || text(&self.run(&[], UNUSABLE, &["daemon", "status"]).stdout).starts_with("process "));
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Killing `unshare` also ends the daemon's namespaces, because of `--kill-child`.
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            let socket = self.place.path("data/sandboxes/keeper/socket");
            until("the daemon is gone", || std::os::unix::net::UnixStream::connect(&socket).is_err());
        }
    }

    /// Creates the sandbox `dev`, with a client and a daemon in the namespaces of this process. Then ends that daemon.
    fn create(&self, granted: &str) {
        let temporary = std::env::temp_dir();
        let run = |args: &[&str]| {
            let output = self.run(&[], temporary.to_str().unwrap(), args);
            assert!(output.status.success(), "{args:?}: {output:?}");
        };
        // A time to live keeps a later daemon running, however long its client takes: a client without a daemon starts its own.
        run(&["sandbox", "create", "dev", "--rw", granted, "--ttl", "1h"]);
        run(&["daemon", "stop"]);
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        self.stop();
    }
}

fn temporary() -> String {
    std::env::temp_dir().to_str().unwrap().to_owned()
}

fn is_refused(output: &Output) {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains(NOT_PROVEN), "{output:?}");
}

#[test]
fn client_whose_daemon_ends_before_the_request_starts_no_command_without_a_proof() {
    let unproven = Unproven::new();
    let socket = unproven.place.path("data/sandboxes/keeper/socket");
    let attempt = || {
        // In place of a daemon in the namespaces of this process, which is killed after the client has found it.
        let daemon = UnixListener::bind(&socket).unwrap();
        let mut client = unproven.agentd(elsewhere(), UNUSABLE, &["sandbox", "create", "dev"]);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (_found, _) = daemon.accept().unwrap();
        fs::remove_file(&socket).unwrap();
        drop(daemon);
        client.wait_with_output().unwrap()
    };
    // On a busy machine, the client may send its request before the socket is removed. It then reports the lost connection.
    let is_late = |output: &Output| text(&output.stderr).contains("the peer closed the connection");
    let output = (0..20).map(|_| attempt()).find(|output| !is_late(output)).unwrap();
    // The client starts a daemon in its own namespaces, which can prove the boundary no more than the client.
    is_refused(&output);
    assert_eq!(text(&unproven.run(&[], UNUSABLE, &["sandbox", "ls"]).stdout), "");
}

#[test]
fn daemon_in_other_namespaces_proves_the_boundary_itself() {
    let mut unproven = Unproven::new();
    let granted: PathBuf = unproven.place.path("granted");
    unproven.create(granted.to_str().unwrap());
    let exec = ["sandbox", "exec", "dev", "--", "echo", "ran"];
    // The client proves nothing, or its proof does not apply to the daemon.
    for (daemon, client) in [(&[][..], elsewhere()), (elsewhere(), &[])] {
        unproven.serve(daemon, UNUSABLE);
        for own in [UNUSABLE, &temporary()] {
            is_refused(&unproven.run(client, own, &exec));
        }
    }
    unproven.serve(&[], &temporary());
    let served = unproven.run(elsewhere(), UNUSABLE, &exec);
    assert_eq!(text(&served.stdout), "ran\n", "{served:?}");
}

#[test]
fn daemon_proves_for_a_client_that_only_believes_to_be_in_other_namespaces() {
    let mut unproven = Unproven::new();
    let granted: PathBuf = unproven.place.path("granted");
    unproven.create(granted.to_str().unwrap());
    // The client may not inspect the daemon, but the daemon may inspect the client. Only root can have fewer rights than its
    // daemon.
    let believes: &[&str] =
        if rustix::process::geteuid().is_root() { &["setpriv", "--bounding-set", "-sys_ptrace"] } else { elsewhere() };
    unproven.serve(&[], UNUSABLE);
    is_refused(&unproven.run(believes, UNUSABLE, &["sandbox", "exec", "dev", "--", "true"]));
    unproven.serve(&[], &temporary());
    let served = unproven.run(believes, UNUSABLE, &["sandbox", "exec", "dev", "--", "echo", "ran"]);
    assert_eq!(text(&served.stdout), "ran\n", "{served:?}");
}

#[test]
fn proof_of_the_daemon_uses_no_temporary_directory_that_a_command_may_change() {
    let mut unproven = Unproven::new();
    let granted = unproven.place.path("granted");
    unproven.create(granted.to_str().unwrap());
    let inside = granted.join("tmp");
    let changed = || fs::metadata(&inside).map(|meta| (meta.mtime(), meta.mtime_nsec())).unwrap();
    let before = changed();
    unproven.serve(&[], inside.to_str().unwrap());
    let served = unproven.run(elsewhere(), &temporary(), &["sandbox", "exec", "dev", "--", "echo", "ran"]);
    assert_eq!(text(&served.stdout), "ran\n", "{served:?}");
    assert_eq!(changed(), before);
}

#[test]
fn daemon_proof_does_not_follow_directory_replaced_by_command() {
    let mut unproven = Unproven::new();
    let granted = unproven.place.path("granted");
    unproven.create(granted.to_str().unwrap());
    let outside = unproven.place.path("outside");
    fs::create_dir(&outside).unwrap();
    let [inside, link] = ["tmp", "link"].map(|name| granted.join(name));
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let directory = fs::File::open(&inside).unwrap();
    let changed = || directory.metadata().map(|meta| (meta.mtime(), meta.mtime_nsec())).unwrap();
    let before = changed();
    let exchange = Exchange::begin(&inside, &link);
    for _ in 0..PROOFS {
        unproven.serve(&[], inside.to_str().unwrap());
        let served = unproven.run(elsewhere(), &temporary(), &["sandbox", "exec", "dev", "--", "echo", "ran"]);
        assert_eq!(text(&served.stdout), "ran\n", "{served:?}");
        assert_eq!(changed(), before);
    }
    drop(exchange);
}

#[test]
fn client_that_can_prove_nothing_in_the_namespaces_of_the_daemon_sends_no_request() {
    let mut unproven = Unproven::new();
    unproven.serve(&[], &temporary());
    let output = unproven.run(&[], UNUSABLE, &["sandbox", "create", "dev"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains(UNUSABLE) && !text(&output.stderr).contains(NOT_PROVEN), "{output:?}");
    assert_eq!(text(&unproven.run(&[], UNUSABLE, &["sandbox", "ls"]).stdout), "");
}
