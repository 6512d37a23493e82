//! Clients in namespaces other than those of the daemon: client and daemon prove to each other that they have the key. Without
//! it, the client sends nothing, and the daemon refuses.

use crate::place::{SandboxDir, program, text, until};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// Ways to start a client in other namespaces.
const ELSEWHERE: [&[&str]; 2] =
    [&["--user", "--map-root-user"], &["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]];

/// The problem of a client that cannot read the key.
const NO_KEY: &str = "finds no key to verify the daemon with";

/// Makes connections with the key in `$KEY` to the socket `$1`, in the protocol of version `$2`. Prints for each kind of answer
/// whether the status was received, and whether the daemon has proven that it has the key.
const ANSWERS: &str = r"
import hmac, os, socket, struct, sys
key, version = open(os.environ['KEY'], 'rb').read(), int(sys.argv[2])
def mac(key, role, client, daemon):
    return hmac.new(key, b'agentd daemon connection' + struct.pack('<I', version) + role + client + daemon, 'sha256').digest()
def receive(connection):
    head = connection.recv(5, socket.MSG_WAITALL)
    return connection.recv(struct.unpack('<I', head[:4])[0], socket.MSG_WAITALL) if head else b''
def attempt(kind, answer, own=os.urandom(32)):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    connection.sendall(bytes([33, 0, 0, 0, 0, version]) + own)
    challenge = receive(connection)
    number, tag = challenge[1:33], challenge[33:]
    proven = tag == mac(key, b'daemon', own, number)
    if challenge[:1] == bytes([8]):
        sent = answer(own, number, tag)
        connection.sendall(bytes([32, 0, 0, 0, 0]) + sent + bytes([1, 0, 0, 0, 0, 3]))
        challenge = receive(connection)
        valid.append(sent)
    print(kind, challenge[:1] == bytes([6]), proven)
valid = []
attempt('right', lambda own, number, tag: mac(key, b'client', own, number))
attempt('replayed', lambda own, number, tag: valid[0])
attempt('reflected', lambda own, number, tag: tag)
attempt('swapped', lambda own, number, tag: mac(key, b'client', number, own))
attempt('other-key', lambda own, number, tag: mac(os.urandom(32), b'client', own, number))
attempt('key-itself', lambda own, number, tag: key)
attempt('zeros', lambda own, number, tag: bytes(32))
attempt('no-number', lambda own, number, tag: mac(key, b'client', own, number), bytes(32))
";

/// Prints the key in `/tmp/$$.right` with another last byte.
const LAST_BYTE_DIFFERS: &str = "head -c 31 /tmp/$$.right; tail -c 1 /tmp/$$.right | tr '\\000-\\376\\377' '\\001-\\377\\000'";

/// Sandboxes of a user with a separate home directory.
struct Elsewhere {
    place: SandboxDir,
    key: PathBuf,
}

impl Elsewhere {
    /// Starts a daemon in the namespaces of this process, which creates the key.
    fn new() -> Self {
        let place = SandboxDir::new();
        fs::create_dir(place.path("home")).unwrap();
        fs::create_dir(place.path("granted")).unwrap();
        let mut create = place.command(&["create", "dev"]);
        let created = create.env("HOME", place.path("home")).output().unwrap();
        assert!(created.status.success(), "{created:?}");
        let uid = fs::metadata("/proc/self").unwrap().uid();
        let runtime = if uid == 0 { "/run".into() } else { format!("/run/user/{uid}") };
        // The home of `/etc/passwd` comes before that of the environment.
        let entry = text(&Command::new("getent").args(["passwd", &uid.to_string()]).output().unwrap().stdout);
        let homes = entry.split(':').nth(5).map(PathBuf::from).into_iter().chain([place.path("home")]);
        let places =
            [PathBuf::from(runtime).join("agentd")].into_iter().chain(homes.map(|home| home.join(".local/share/agentd/proofs")));
        let key = places.map(|folder| folder.join("daemon.key")).find(|key| key.exists()).unwrap();
        Self { place, key }
    }

    /// Returns true if a client with another home does not find the key. A client does find a key in the user's runtime folder,
    /// and as root, whose home is that of `/etc/passwd`.
    fn key_is_in_home(&self) -> bool {
        self.key.starts_with(self.place.path("home"))
    }

    /// Runs `agentd` in other namespaces, after `script`, which can use its own mount namespace.
    fn run(&self, namespaces: &[&str], script: &str, args: &[&str]) -> Output {
        let script = format!("{script}\nexec \"$@\"");
        let mut command = Command::new("unshare");
        command.arg("--mount").args(namespaces).args(["sh", "-euc", &script, "sh", &program()]).args(args);
        command.env("HOME", self.place.path("home")).env("AGENTD_DATA_DIR", self.place.path("data"));
        command.env("KEY_FOLDER", self.key.parent().unwrap()).env("GRANTED", self.place.path("granted"));
        command.env("ELSEWHERE", self.place.path("elsewhere")).env("KEY", &self.key);
        command.current_dir("/").stdin(Stdio::null()).output().unwrap()
    }

    /// Asserts that every kind of request is refused with `problem` and a remedy, and that no output has a part of the key.
    fn is_refused(&self, script: &str, problem: &str) {
        let key: String = fs::read(&self.key).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        for args in [
            &["sandbox", "ls"][..],
            &["sandbox", "exec", "dev", "--", "true"],
            &["sandbox", "create", "other"],
            &["sandbox", "rm", "dev"],
            &["daemon", "status"],
        ] {
            let output = self.run(ELSEWHERE[0], script, args);
            assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
            let message = text(&output.stderr);
            assert!(message.contains("user namespace, and ") && message.contains(problem), "{args:?}: {message}");
            assert!(message.contains(" — run agentd in the namespaces of the daemon"), "{message}");
            assert!(!message.contains(&key) && !message.contains(&key[..16]), "{message}");
        }
        assert_eq!(self.place.agentd(&["ls"]).lines().count(), 1);
    }
}

#[test]
fn client_in_other_namespaces_with_the_key_is_served() {
    let elsewhere = Elsewhere::new();
    for namespaces in ELSEWHERE {
        let run = |args: &[&str]| {
            let output = elsewhere.run(namespaces, ":", args);
            assert!(output.status.success(), "{namespaces:?} {args:?}: {output:?}");
            text(&output.stdout)
        };
        let granted = elsewhere.place.path("granted");
        let granted = granted.to_str().unwrap();
        run(&["sandbox", "create", "other", "--rw", granted]);
        let script = format!("echo from-inside; echo seen >>{granted}/file");
        assert_eq!(run(&["sandbox", "exec", "other", "--", "sh", "-c", &script]), "from-inside\n");
        assert!(run(&["sandbox", "ls"]).contains("other"));
        assert!(run(&["daemon", "status"]).contains("process"));
        run(&["sandbox", "rm", "other"]);
    }
    assert_eq!(fs::read_to_string(elsewhere.place.path("granted/file")).unwrap(), "seen\nseen\n");
}

#[test]
fn only_the_right_answer_to_the_challenge_of_this_connection_is_served() {
    let elsewhere = Elsewhere::new();
    let status = text(&elsewhere.run(ELSEWHERE[0], ":", &["daemon", "status"]).stdout);
    let (_, version) = status.split_once("(protocol ").unwrap();
    let mut client = Command::new("unshare");
    client.args(["--user", "python3", "-c", ANSWERS]).arg(elsewhere.place.path("data/sandboxes/keeper/socket"));
    let output = client.arg(version.split_once(')').unwrap().0).env("KEY", &elsewhere.key).output().unwrap();
    let refused =
        ["replayed", "reflected", "swapped", "other-key", "key-itself", "zeros"].map(|kind| format!("{kind} False True\n"));
    let expected = format!("right True True\n{}no-number False False\n", refused.concat());
    assert_eq!(text(&output.stdout), expected, "{output:?}");
}

#[test]
fn client_in_the_same_namespaces_needs_no_key() {
    let elsewhere = Elsewhere::new();
    // The client sees no key, and shares the user and PID namespaces of the daemon.
    if rustix::process::geteuid().is_root() {
        let output = elsewhere.run(
            &[],
            "mount -t tmpfs -o mode=700 none \"$KEY_FOLDER\"",
            &["sandbox", "exec", "dev", "--", "echo", "ran"],
        );
        assert_eq!(text(&output.stdout), "ran\n", "{output:?}");
    } else {
        let mut exec = elsewhere.place.command(&["exec", "dev", "--", "echo", "ran"]);
        let output = exec.env("HOME", elsewhere.place.path("granted")).output().unwrap();
        assert_eq!(text(&output.stdout), "ran\n", "{output:?}");
    }
}

#[test]
fn client_in_other_namespaces_that_cannot_read_the_key_is_refused() {
    let elsewhere = Elsewhere::new();
    elsewhere.is_refused("mount -t tmpfs -o mode=700 none \"$KEY_FOLDER\"", NO_KEY);
    let unreadable = "mount -t tmpfs -o mode=700 none \"$KEY_FOLDER\"; head -c 32 /dev/urandom >\"$KEY\"; chmod 640 \"$KEY\"";
    elsewhere.is_refused(unreadable, NO_KEY);
    let link = "cp \"$KEY\" /tmp/key.$$; mount -t tmpfs -o mode=700 none \"$KEY_FOLDER\"; ln -s /tmp/key.$$ \"$KEY\"";
    elsewhere.is_refused(link, NO_KEY);
    if elsewhere.key_is_in_home() {
        elsewhere.is_refused("mkdir -p \"$ELSEWHERE\"; export HOME=\"$ELSEWHERE\"", NO_KEY);
    }
}

#[test]
fn client_in_other_namespaces_with_a_wrong_key_is_refused() {
    let elsewhere = Elsewhere::new();
    for wrong in ["head -c 32 /dev/urandom", LAST_BYTE_DIFFERS] {
        let script = format!(
            "cp \"$KEY\" /tmp/$$.right; mount -t tmpfs -o mode=700 none \"$KEY_FOLDER\"; umask 077; {{ {wrong}; }} >\"$KEY\"; rm /tmp/$$.right"
        );
        elsewhere.is_refused(&script, "has not proven that it has the key");
    }
    for wrong in ["head -c 31 /dev/urandom", "head -c 33 /dev/urandom", "head -c 32 /dev/zero", ":"] {
        let script = format!("mount -t tmpfs -o mode=700 none \"$KEY_FOLDER\"; umask 077; {{ {wrong}; }} >\"$KEY\"");
        elsewhere.is_refused(&script, NO_KEY);
    }
}

#[test]
fn key_is_private_and_neither_logged_nor_in_process_arguments_or_environment() {
    let elsewhere = Elsewhere::new();
    let key = fs::metadata(&elsewhere.key).unwrap();
    assert_eq!((key.permissions().mode() & 0o7777, key.len()), (0o600, 32));
    let served = elsewhere.run(ELSEWHERE[0], ":", &["sandbox", "exec", "dev", "--", "true"]);
    assert!(served.status.success(), "{served:?}");
    let key = fs::read(&elsewhere.key).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let has_key = |bytes: &[u8]| bytes.windows(8).any(|part| part == &key[..8]) || text(bytes).contains(&hex[..16]);
    let pid = elsewhere.place.daemon().unwrap().as_raw_nonzero();
    let log = elsewhere.place.path("data/sandboxes/keeper/log");
    for file in [format!("/proc/{pid}/cmdline").into(), format!("/proc/{pid}/environ").into(), log] {
        assert!(!has_key(&fs::read(&file).unwrap()), "{}", file.display());
    }
    // All daemons of the user have one key, which a later daemon keeps.
    let stopped = elsewhere.place.agentd_itself().args(["daemon", "stop"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    let mut next = elsewhere.place.command(&["exec", "dev", "--", "true"]);
    assert!(next.env("HOME", elsewhere.place.path("home")).status().unwrap().success());
    assert_eq!(fs::read(&elsewhere.key).unwrap(), key);
}

#[test]
fn payload_cannot_read_the_key_or_be_granted_its_folder() {
    let elsewhere = Elsewhere::new();
    let folder = elsewhere.key.parent().unwrap();
    let run = |args: &[&str]| {
        let mut command = elsewhere.place.agentd_itself();
        command.env("HOME", elsewhere.place.path("home")).args(args).stdin(Stdio::null()).output().unwrap()
    };
    for granted in [folder, folder.parent().unwrap(), &elsewhere.key] {
        let granted = granted.to_str().unwrap();
        for option in ["--ro", "--rw"] {
            for command in [&["run"][..], &["sandbox", "create", "other"]] {
                let end: &[&str] = if command[0] == "run" { &["--", "true"] } else { &[] };
                let output = run(&[command, &[option, granted], end].concat());
                assert_eq!(output.status.code(), Some(125), "{command:?} {option} {granted}: {output:?}");
            }
        }
    }
    let key = elsewhere.key.to_str().unwrap();
    for command in [&["run", "--workspace", "none", "--"][..], &["sandbox", "exec", "dev", "--"]] {
        let output = run(&[command, &["cat", key]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{command:?}: {output:?}");
    }
}

#[test]
fn path_that_means_another_object_in_the_mount_namespace_of_the_client_is_refused() {
    let elsewhere = Elsewhere::new();
    let granted = elsewhere.place.path("granted");
    fs::write(granted.join("secret"), "of the daemon's namespace").unwrap();
    let granted = granted.to_str().unwrap();
    let output =
        elsewhere.run(ELSEWHERE[0], "mount -t tmpfs none \"$GRANTED\"", &["sandbox", "create", "other", "--ro", granted]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains(granted), "{output:?}");
    assert!(!elsewhere.place.agentd(&["ls"]).contains("other"));
}

#[test]
fn daemon_that_was_started_in_other_namespaces_serves_client_with_the_key() {
    let elsewhere = Elsewhere::new();
    let agentd = |home: &str, args: &[&str]| {
        elsewhere.place.agentd_itself().env("HOME", elsewhere.place.path(home)).args(args).output().unwrap()
    };
    assert!(agentd("home", &["daemon", "stop"]).status.success());
    let mut daemon = Command::new("unshare");
    daemon.args(["--user", "--map-root-user", &program(), "daemon", "serve"]).arg(elsewhere.place.path("data/sandboxes"));
    let mut daemon = daemon.env("HOME", elsewhere.place.path("home")).stdin(Stdio::null()).spawn().unwrap();
    let running = format!("process    {}\n", daemon.id());
    until("the daemon serves a client", || text(&agentd("home", &["daemon", "status"]).stdout).contains(&running));
    if elsewhere.key_is_in_home() {
        let refused = agentd("granted", &["daemon", "status"]);
        assert!(text(&refused.stderr).contains(NO_KEY), "{refused:?}");
    }
    assert!(agentd("home", &["daemon", "stop"]).status.success());
    daemon.wait().unwrap();
}
