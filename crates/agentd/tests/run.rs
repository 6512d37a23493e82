//! `agentd run` from the command line: the built program runs real commands under real limits.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::MetadataExt,
            net::{SocketAddr, UnixListener},
            process::ExitStatusExt,
        },
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
};
use tempfile::TempDir;

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A workspace and, next to it, a home directory that holds a secret.
struct RunDir {
    root: TempDir,
}

impl RunDir {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("home/.ssh")).unwrap();
        fs::write(root.path().join("home/.ssh/id_rsa"), "secret").unwrap();
        fs::create_dir(root.path().join("work")).unwrap();
        Self { root }
    }

    fn work(&self) -> std::path::PathBuf {
        self.root.path().join("work")
    }

    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut run = Command::new(program());
        run.arg("run").args(options).arg("--").args(command);
        run.current_dir(self.work()).env("HOME", self.root.path().join("home"));
        run.env("SECRET_TOKEN", "x").stdin(Stdio::null());
        run
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.command(options, command).output().unwrap()
    }

    fn sh(&self, script: &str) -> Output {
        self.run(&[], &["sh", "-c", script])
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Returns whether this user may create control groups. If not, checks that an option that needs one fails with a remedy.
fn has_groups() -> bool {
    let place = RunDir::new();
    let output = place.run(&["--memory", "64M"], &["true"]);
    if !output.status.success() {
        assert!(!rustix::process::geteuid().is_root(), "{output:?}");
        assert!(
            text(&output.stderr).contains("cgroup: find a writable cgroup with the memory controller — run as root, or"),
            "{output:?}"
        );
        assert_eq!(output.status.code(), Some(125));
    }
    output.status.success()
}

#[test]
fn run_logs_only_on_request_and_to_standard_error() {
    let place = RunDir::new();
    let run = |filter: &str| place.command(&[], &["echo", "out"]).env("AGENTD_LOG", filter).output().unwrap();
    for filter in ["", "off"] {
        let output = run(filter);
        assert!(output.status.success() && output.stdout == b"out\n" && output.stderr.is_empty(), "{output:?}");
    }
    let output = run("debug");
    assert!(output.status.success() && output.stdout == b"out\n", "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(" DEBUG agentd_isolation::sandbox: sandbox created"), "{output:?}");
    let output = run("agentd=loud");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("agentd: read AGENTD_LOG: agentd=loud: "), "{output:?}");
}

#[test]
fn command_with_json_reports_output_and_enforced_controls() {
    let place = RunDir::new();
    assert_eq!(text(&place.run(&[], &["python3", "-c", "print(6*7)"]).stdout), "42\n");
    let said = json(&place.run(&["--json"], &["python3", "-c", "print(6*7)"]));
    assert_eq!((said["stdout"]["text"].as_str(), said["exit_code"].as_i64()), (Some("42\n"), Some(0)));
    for what in ["files", "processes", "network", "syscalls"] {
        assert_eq!(said["enforced"][what], true, "{what}");
    }
    assert_eq!(said["degraded"], Value::Array(Vec::new()));
}

#[test]
fn host_direct_reports_no_enforced_control() {
    let place = RunDir::new();
    let said = json(&place.run(&["--json", "--backend", "workstation"], &["echo", "hi"]));
    assert_eq!(said["stdout"]["text"], "hi\n");
    for what in ["files", "processes", "network", "syscalls"] {
        assert_eq!(said["enforced"][what], false, "{what}");
    }
}

#[test]
fn command_in_sandbox_cannot_reach_host() {
    let place = RunDir::new();
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {}), 2)", loopback.local_addr().unwrap().port());
    let name = format!("agentd-test-{}", std::process::id());
    let _abstract_socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let knock = format!("import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')");
    let key = place.root.path().join("home/.ssh/id_rsa").display().to_string();
    let refused: [&[&str]; 13] = [
        &["cat", "/etc/shadow"],
        &["cat", &key],
        &["ls", "/root"],
        &["unshare", "-Ur", "true"],
        &["mount", "-t", "tmpfs", "x", "/mnt"],
        &["sh", "-c", "ln -s / outside && cat outside/etc/shadow"],
        &["python3", "-c", &connect],
        &["dmesg"],
        &["python3", "-c", &knock],
        &["sh", "-c", "echo x > /etc/agentd-test"],
        &["sh", "-c", "echo x > /usr/local/agentd-test"],
        &["sh", "-c", "test -n \"$SECRET_TOKEN\""],
        &["sh", "-c", "kill -9 -1 2>/dev/null"],
    ];
    for command in refused {
        // Toolchains and caches of root lie in /root, which must stay hidden here.
        let output = place.run(&["--no-host-tools", "--no-host-caches"], command);
        assert!(!output.status.success(), "{command:?}: {output:?}");
    }
    // The parent directory of the workspace is private to the sandbox.
    place.sh("echo x > ../outside-the-workspace");
    assert!(!place.root.path().join("outside-the-workspace").exists());
}

/// Mounts an overlay of the host's root as the new root, and binds a socket in the root directory. Connects to the socket
/// without and with a sandbox. `$1` is a scratch directory, `$2` the program.
const BELOW_THE_ROOT: &str = r#"set -e
mount -t tmpfs tmpfs "$1"; cd "$1"; mkdir up work root
mount -t overlay -o lowerdir=/,upperdir=up,workdir=work overlay root
for place in proc dev sys tmp; do mount --rbind /$place root/$place; done
cp "$2" root/usr/agentd-under-test
cd root; mkdir old; pivot_root . old; cd /; umount -l old; rmdir old
exec python3 -c '
import os, socket, subprocess, sys
server = socket.socket(socket.AF_UNIX); server.bind("/below"); os.chmod("/below", 0o777); server.listen()
knock = ["python3", "-c", "import socket; socket.socket(socket.AF_UNIX).connect(\"/below\"); print(\"connected\")"]
for prefix in [], [sys.argv[1], "run", "--backend", "linux-native", "--workspace", "none", "--"]:
  print(subprocess.run([*prefix, *knock], capture_output=True, text=True).stdout.strip() or "refused")
' /usr/agentd-under-test
"#;

#[test]
fn connect_to_socket_in_root_directory_fails() {
    if !rustix::process::geteuid().is_root() {
        // Only root can create a socket in the root directory.
        return;
    }
    let place = RunDir::new();
    let (directory, program) = (place.work().display().to_string(), program());
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", BELOW_THE_ROOT, "sh", &directory, &program]);
    let output = shell.env("HOME", "/nowhere").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    assert_eq!(text(&output.stdout), "connected\nrefused\n", "{output:?}");
}

#[test]
fn bind_of_tcp_port_with_net_host_fails() {
    let place = RunDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "import errno, socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n\
         try: socket.socket().bind(('127.0.0.1', 0))\nexcept OSError as e: print(errno.errorcode[e.errno])"
    );
    let output = place.run(&["--net", "host"], &["python3", "-c", &script]);
    assert_eq!(text(&output.stdout), "EACCES\n", "{output:?}");
}

#[test]
fn compilers_git_python_and_node_work() {
    let place = RunDir::new();
    fs::write(place.work().join("hello.c"), "int puts(const char *); int main(void) { puts(\"hello\"); return 0; }").unwrap();
    let scripts = [
        ("cc hello.c && ./a.out", "hello\n"),
        (
            "git init -q g && cd g && git config user.email a@b.c && git config user.name n && echo x > f && git add f && \
             git commit -qm m && git log --format=%s",
            "m\n",
        ),
        ("python3 -m venv --without-pip v && v/bin/python -c 'print(1)'", "1\n"),
        ("node -e 'console.log(2)'", "2\n"),
        ("printf 'b\\na\\n' 2>/dev/null | sort > f; cat f", "a\nb\n"),
        ("mkfifo p; (echo through > p &) ; cat p", "through\n"),
    ];
    for (script, expected) in scripts {
        let output = place.sh(script);
        assert_eq!(text(&output.stdout), expected, "{script}: {output:?}");
    }
    // Files created in the workspace belong to the caller.
    let made = fs::metadata(place.work().join("f")).unwrap();
    assert_eq!(made.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn open_file_limit_of_command_is_that_of_caller() {
    let place = RunDir::new();
    // The launcher raises its own soft limit to the hard limit; the command must not inherit that.
    let agentd = place.command(&[], &["sh", "-c", "ulimit -Sn"]);
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -Sn 500 && exec \"$@\"", "sh"]).arg(agentd.get_program()).args(agentd.get_args());
    limited.envs(agentd.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = agentd.get_current_dir() {
        limited.current_dir(directory);
    }
    let output = limited.output().unwrap();
    assert_eq!(text(&output.stdout), "500\n", "{output:?}");
}

#[test]
fn cargo_builds_crate_with_callers_toolchain() {
    // The toolchain is in the caller's home directory.
    let Some(real_home) = std::env::var_os("HOME").filter(|home| Path::new(home).join(".cargo/bin/cargo").exists()) else {
        // The unprivileged test user has no toolchain.
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let place = RunDir::new();
    let script = "cargo new -q --vcs none c && cd c && cargo build -q && ./target/debug/c";
    let output =
        place.command(&[], &["sh", "-c", script]).env("HOME", real_home).env_remove("CARGO_TARGET_DIR").output().unwrap();
    assert_eq!(text(&output.stdout), "Hello, world!\n", "{output:?}");
}

#[test]
fn existing_hooks_and_settings_cannot_be_changed_and_new_ones_are_reported() {
    let place = RunDir::new();
    fs::create_dir_all(place.work().join(".git/hooks")).unwrap();
    fs::write(place.work().join(".git/config"), "[core]\n").unwrap();
    fs::write(place.work().join(".bashrc"), "# mine\n").unwrap();
    for script in [
        "echo evil > .git/hooks/pre-commit",
        "echo evil >> .git/config",
        "rm .git/config",
        "mv .git .tig",
        "rm -rf .git/hooks",
        "echo evil > .bashrc",
        "rm .bashrc",
        "mv .bashrc elsewhere",
    ] {
        let output = place.sh(script);
        assert!(!output.status.success(), "{script}: {output:?}");
    }
    assert_eq!(fs::read_to_string(place.work().join(".bashrc")).unwrap(), "# mine\n");
    // Missing protected files can be created; agentd reports them.
    let output = place.sh("echo evil > .envrc; echo evil > .git/commondir; echo evil > AGENTS.md");
    for made in [".envrc", ".git/commondir", "AGENTS.md"] {
        assert!(text(&output.stderr).lines().any(|line| line.contains("created: ") && line.contains(made)), "{output:?}");
    }
    // Files that exist when a command starts are read-only.
    for made in [".envrc", ".git/commondir", "AGENTS.md"] {
        assert!(!place.sh(&format!("echo evil > {made}")).status.success(), "{made}");
    }
}

#[test]
fn hooks_outside_default_directory_cannot_be_changed() {
    let place = RunDir::new();
    fs::create_dir_all(place.work().join(".git/hooks")).unwrap();
    for part in [".git/objects", ".git/refs", "tools/hooks"] {
        fs::create_dir_all(place.work().join(part)).unwrap();
    }
    fs::write(place.work().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(place.work().join(".git/config"), "[core]\n\thooksPath = tools/hooks\n").unwrap();
    assert!(!place.sh("echo evil > tools/hooks/pre-commit").status.success());
    let git = place.work().join(".git").display().to_string();
    for path in ["hooks/x", "config"] {
        let script = format!("echo evil > {path}");
        assert!(!place.run(&["--workspace", &git, "--cwd", &git], &["sh", "-c", &script]).status.success(), "{path}");
    }
    assert_eq!(place.run(&["--rw", ".git/hooks"], &["true"]).status.code(), Some(125));

    let place = RunDir::new();
    fs::write(place.work().join(".git"), "gitdir: ../elsewhere\n").unwrap();
    for script in ["echo evil > .git", "rm .git", "mv .git x"] {
        assert!(!place.sh(script).status.success(), "{script}");
    }
}

#[test]
fn exit_code_follows_shell_convention() {
    let place = RunDir::new();
    let cases: [(&[&str], i32); 5] = [
        (&["sh", "-c", "exit 7"], 7),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["true"], 0),
    ];
    for (command, code) in cases {
        assert_eq!(place.run(&[], command).status.code(), Some(code), "{command:?}");
    }
    let bad: [&[&str]; 7] = [
        &["--memroy", "1G"],
        &["--memory", "lots"],
        &["--timeout", "0"],
        &["--backend", "docker"],
        &["--workspace", "/no/such/place"],
        &["--env", "1=x"],
        &["--rw", "/"],
    ];
    for options in bad {
        let output = place.run(options, &["true"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{options:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

/// Runs with `--json`, and checks the reason and the exit code.
fn ends(options: &[&str], command: &[&str], reason: &str, code: i32) {
    let place = RunDir::new();
    let options: Vec<&str> = [&["--json"], options].concat();
    let output = place.run(&options, command);
    let said = json(&output);
    assert_eq!((said["reason"].as_str(), output.status.code()), (Some(reason), Some(code)), "{options:?} {command:?}: {said}");
}

#[test]
fn exceeded_limit_kills_command_and_is_the_reason() {
    ends(&["--timeout", "300ms"], &["sh", "-c", "sleep 600 & setsid sleep 600 & wait"], "wall-deadline", 124);
    ends(&["--max-output", "1M"], &["yes"], "output-limit", 137);
    ends(&["--file-size", "1M"], &["sh", "-c", "exec head -c 3000000 /dev/zero > big"], "disk-limit", 153);
    ends(&["--pids", "64"], &["bash", "-c", ":(){ :|:& };:; sleep 600"], "process-limit", 137);
    if has_groups() {
        ends(&["--memory", "256M"], &["python3", "-c", "bytearray(2 << 30)"], "out-of-memory", 137);
        ends(
            &["--cpu-time", "1s"],
            &["sh", "-c", "while :; do sh -c 'i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done'; done"],
            "cpu-limit",
            137,
        );
    }
}

#[test]
fn output_is_streamed_live_and_cut_at_limit() {
    let place = RunDir::new();
    let mut child = place
        .command(&["-i"], &["sh", "-c", "read a; echo got $a; read b; echo got $b; exit 5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for word in ["one", "two"] {
        writeln!(stdin, "{word}").unwrap();
        let mut line = vec![0u8; "got one\n".len()];
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(text(&line), format!("got {word}\n"));
    }
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let output = place.run(&["--max-output", "1M"], &["yes"]);
    assert_eq!(output.stdout.len(), 1 << 20);
    assert_eq!(text(&output.stderr), "agentd: command stopped: output limit exceeded (--max-output)\n");
}

/// Starts a command and waits until it has printed a byte.
fn started(place: &RunDir, options: &[&str], script: &str) -> Child {
    let mut child = place.command(options, &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0u8; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    child
}

fn signal(child: &Child, signal: i32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(),
        rustix::process::Signal::from_named_raw(signal).unwrap(),
    )
    .unwrap();
}

/// Sends any signal, also one without a name.
fn signal_by_number(child: &Child, number: i32) {
    let kill = Command::new("/bin/kill").args([format!("-{number}"), child.id().to_string()]).status().unwrap();
    assert!(kill.success(), "{number}");
}

/// Returns whether a process has exactly this command line. (A launcher shows that of its parent.)
fn alive(command: &str) -> bool {
    let line = command.replace(' ', "\0") + "\0";
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|e| fs::read(e.path().join("cmdline")).is_ok_and(|found| found == line.as_bytes()))
}

#[test]
fn stop_signal_kills_all_processes_of_command() {
    let place = RunDir::new();
    for (number, signal, code) in [(1, libc::SIGINT, 130), (2, libc::SIGTERM, 143)] {
        let seconds = format!("77{number}{}", std::process::id());
        let script = format!("echo; trap '' INT TERM; setsid sleep {seconds} & sleep {seconds}");
        let mut child = started(&place, &["--grace", "100ms"], &script);
        self::signal(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(code), None));
        assert!(!alive(&format!("sleep {seconds}")));
    }
}

/// A command that leaves an incomplete file, unless a signal handler removes it before the command ends.
const HALF_MADE: &str = "trap 'rm half; exit 3' INT TERM HUP; touch half; echo; sleep 1000 & wait";

#[test]
fn stop_signal_reaches_the_command_before_it_is_killed() {
    let place = RunDir::new();
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let mut child = started(&place, &["--grace", "1h"], HALF_MADE);
        self::signal(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!place.work().join("half").exists());
    }
}

#[test]
fn timeout_sends_sigterm_before_sigkill() {
    let place = RunDir::new();
    let output = place.run(&["--timeout", "2s", "--grace", "1h"], &["sh", "-c", HALF_MADE]);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    assert!(!place.work().join("half").exists());
    // 2 s are enough to start the command under emulation. Ignoring SIGTERM leads to SIGKILL, and `--grace 0` sends no SIGTERM.
    for (options, script) in [
        (["--timeout", "2s", "--grace", "100ms"], "trap '' TERM; touch half; sleep 1000 & wait; sleep 1000"),
        (["--timeout", "2s", "--grace", "0"], HALF_MADE),
    ] {
        let output = place.run(&options, &["sh", "-c", script]);
        assert_eq!(output.status.code(), Some(124), "{output:?}");
        fs::remove_file(place.work().join("half")).unwrap();
    }
}

#[test]
fn second_stop_signal_kills_at_once() {
    let place = RunDir::new();
    let mut child = started(&place, &["--grace", "1h"], "trap 'echo' INT; echo; sleep 1000 & wait; wait; sleep 1000");
    signal(&child, libc::SIGINT);
    child.stdout.as_mut().unwrap().read_exact(&mut [0u8; 1]).unwrap();
    signal(&child, libc::SIGINT);
    assert_eq!(ends_by_itself(child), Some(130));
}

#[test]
fn second_stop_signal_ends_the_wait_for_a_sandbox_that_does_not_end() {
    let place = RunDir::new();
    // The launcher is the parent of the supervisor. While it is stopped, it destroys no sandbox.
    let script = "read -r _ _ _ launcher _ </proc/$PPID/stat; kill -STOP $launcher; echo $launcher";
    let options = ["--backend", "host-direct", "--net", "host", "--grace", "1h"];
    let mut child = place.command(&options, &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    let launcher: i32 = line.trim().parse().unwrap();
    // Signals that come at once count as one.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if std::time::Instant::now() > deadline => break None,
            None => self::signal(&child, libc::SIGINT),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    if status.is_none() {
        child.kill().unwrap();
    }
    rustix::process::kill_process(rustix::process::Pid::from_raw(launcher).unwrap(), rustix::process::Signal::CONT).unwrap();
    assert_eq!(status.expect("agentd waits for its sandbox").code(), Some(130));
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut errors).unwrap();
    assert!(errors.contains("processes of the sandbox may still run"), "{errors}");
}

#[test]
fn json_object_is_printed_for_every_end() {
    let place = RunDir::new();
    let cases: [(&[&str], &str, i32); 5] = [
        (&[], "no-such-program", 127),
        (&[], "/etc/passwd", 126),
        (&["--workspace", "/no/such/place"], "true", 125),
        (&["--backend", "docker"], "true", 125),
        (&["--memroy", "1G"], "true", 125),
    ];
    for (options, program, code) in cases {
        let output = place.run(&[&["--json"], options].concat(), &[program]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(json(&output)["error"].is_string(), "{output:?}");
    }
    let script = "touch here; trap 'exit 3' TERM; echo; sleep 1000 & wait";
    let child = place.command(&["--json"], &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    while !place.work().join("here").exists() {
        std::thread::yield_now();
    }
    signal(&child, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let said = json(&output);
    assert_eq!((output.status.code(), &said["reason"]), (Some(143), &Value::from("cancelled")), "{said}");
    if has_groups() {
        ends(&["--memory", "32M"], &["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=64k"], "out-of-memory", 137);
    }
}

#[test]
fn json_object_is_printed_when_a_signal_ends_agentd() {
    let place = RunDir::new();
    let numbers = [libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGPROF, libc::SIGXCPU, libc::SIGPWR];
    for number in numbers {
        let here = place.work().join(number.to_string());
        let script = format!("touch {number}; sleep 1000");
        let child = place.command(&["--json"], &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        while !here.exists() {
            std::thread::yield_now();
        }
        signal(&child, number);
        let output = child.wait_with_output().unwrap();
        let said = json(&output);
        assert_eq!((output.status.code(), &said["reason"]), (Some(128 + number), &Value::from("cancelled")), "{number}: {said}");
    }
}

#[test]
fn real_time_signal_ends_agentd_with_its_json_object() {
    let place = RunDir::new();
    for number in [libc::SIGRTMIN(), libc::SIGRTMIN() + 7, libc::SIGRTMAX()] {
        let child = started_json(&place, number);
        signal_by_number(&child, number);
        let output = child.wait_with_output().unwrap();
        let said = json(&output);
        assert_eq!((output.status.code(), &said["reason"]), (Some(128 + number), &Value::from("cancelled")), "{number}: {said}");
    }
}

#[test]
fn signal_that_the_c_library_reserves_does_not_end_agentd() {
    let place = RunDir::new();
    for number in [32, 33] {
        let child = started_json(&place, number);
        signal_by_number(&child, number);
        signal(&child, libc::SIGTERM);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &json(&output)["reason"]), (Some(143), &Value::from("cancelled")), "{number}");
    }
}

/// Starts a run with `--json` whose command creates the file `mark`, and waits for that file.
fn started_json(place: &RunDir, mark: i32) -> Child {
    let script = format!("touch {mark}; sleep 1000");
    let child = place.command(&["--json"], &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    while !place.work().join(mark.to_string()).exists() {
        std::thread::yield_now();
    }
    child
}

#[test]
fn json_with_closed_standard_output_fails_before_command_starts() {
    let place = RunDir::new();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#""$0" run --json -- touch ran >&-"#, &program()]).current_dir(place.work());
    let output = shell.env("HOME", place.root.path().join("home")).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("standard output is closed"), "{output:?}");
    assert!(!place.work().join("ran").exists());
}

#[test]
fn temporary_directory_that_does_not_exist_is_named_in_the_error() {
    let place = RunDir::new();
    let output = place.command(&[], &["true"]).env("TMPDIR", place.work().join("missing")).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("missing: No such file") && said.contains("set TMPDIR"), "{said}");
}

#[test]
fn control_characters_in_names_are_escaped() {
    let place = RunDir::new();
    let hostile = "a\u{1b}]0;x\u{7}\nagentd: forged\u{9b}1m";
    fs::create_dir(place.work().join(hostile)).unwrap();
    let appeared = place.run(&["--workspace", hostile], &["sh", "-c", "echo evil > .envrc"]);
    let not_found = place.run(&[], &[hostile]);
    let planned = place.run(&["--explain", "--workspace", hostile], &["true"]);
    let in_json = place.run(&["--json"], &["sh", "-c", "printf '\\302\\2331m'"]);
    assert_eq!(json(&in_json)["stdout"]["text"], "\u{9b}1m");
    for output in [&appeared.stderr, &not_found.stderr, &planned.stdout] {
        assert!(text(output).contains(r"a\x1b]0;x\x07\nagentd: forged\u{9b}1m"), "{}", text(output));
    }
    for output in [&appeared.stderr, &not_found.stderr, &planned.stdout, &in_json.stdout] {
        assert!(!text(output).contains(|c: char| c.is_control() && c != '\n'), "{output:?}");
        assert!(!text(output).contains("\nagentd: forged"), "{output:?}");
    }
}

#[test]
fn terminal_option_without_terminal_on_standard_input_fails() {
    let place = RunDir::new();
    for input in [Stdio::piped(), Stdio::null()] {
        let output = place.command(&["-it"], &["cat"]).stdin(input).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(text(&output.stderr).contains("standard input is not a terminal — drop -t"), "{output:?}");
    }
}

#[test]
fn terminal_without_input_does_not_wait_for_input() {
    let place = RunDir::new();
    for backend in ["linux-native", "container"] {
        for input in [Stdio::piped(), Stdio::null()] {
            let mut waiting = place.command(&["--backend", backend, "-t"], &["sh", "-c", "cat; test -t 1 && echo ended"]);
            let mut child = waiting.stdin(input).stdout(Stdio::piped()).spawn().unwrap();
            // Kept open: the end of the command must not depend on the end of the caller's input.
            let open = child.stdin.take();
            let output = child.wait_with_output().unwrap();
            drop(open);
            assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "ended\r\n".to_owned()), "{backend}");
        }
    }
}

#[test]
fn kill_of_agentd_kills_command() {
    let place = RunDir::new();
    let seconds = format!("773{}", std::process::id());
    let mut child = started(&place, &[], &format!("echo; setsid sleep {seconds} & sleep {seconds}"));
    child.kill().unwrap();
    child.wait().unwrap();
    while alive(&format!("sleep {seconds}")) {
        std::thread::yield_now();
    }
}

#[test]
fn explain_prints_plan_and_runs_nothing() {
    let place = RunDir::new();
    let output = place.run(&["--explain", "--memory", "64M", "--ro", "/usr/share"], &["touch", "made"]);
    let plan = text(&output.stdout);
    for part in ["namespaces", "landlock", "seccomp", "cgroup       memory 64M, no swap", "/usr/share (read-only)", "privileges"]
    {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    let options = ["--explain", "--backend", "container", "--ro", "/usr/share:/share"];
    let plan = text(&place.run(&options, &["touch", "made"]).stdout);
    for part in [
        "root         private",
        "system ",
        "etc          the world-readable part of the host's",
        "names        root (0), group root (0), home /root; host agentd, no resolver",
        "grant        /usr/share at /share (read-only)",
        "seccomp",
        "privileges",
    ] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    assert!(!plan.contains("boundary") && !plan.contains("masked"), "{plan}");
    let plan = text(&place.run(&["--explain", "--backend", "none"], &["touch", "made"]).stdout);
    assert!(plan.contains("boundary     none"), "{plan}");
    assert!(!place.work().join("made").exists());
}

#[test]
fn plan_of_every_backend_names_each_control() {
    let place = RunDir::new();
    let sandbox = ["namespaces", "root", "home", "names", "grant", "landlock", "seccomp", "cgroup", "privileges"];
    let container =
        ["namespaces", "root", "home", "system", "etc", "names", "grant", "landlock", "seccomp", "cgroup", "privileges"];
    for (backend, before, inside) in [
        ("host-direct", &["boundary"][..], &[][..]),
        ("linux-native", &[], &["namespaces", "masked", "home", "names", "grant", "landlock", "seccomp", "cgroup", "privileges"]),
        ("container", &[], &container),
        ("firecracker", &["machine", "host side", "grants", "inside"], &sandbox),
        ("gondolin", &["machine", "host side", "inside"], &sandbox),
    ] {
        let mut run = place.command(&["--explain", "--backend", backend], &["touch", "made"]);
        let output = run.env("AGENTD_DATA_DIR", place.root.path().join("data")).output().unwrap();
        assert!(output.status.success(), "{backend}: {output:?}");
        let plan = text(&output.stdout);
        // The links, and the means by which a host enforces limits, depend on the host.
        let mut subjects: Vec<&str> = plan.lines().map(|line| line.get(..12).unwrap_or(line).trim()).collect();
        subjects.retain(|subject| !["rlimit", "link", "protected"].contains(subject));
        subjects.dedup();
        let wanted: Vec<&str> = [&["backend"][..], before, inside].concat();
        assert_eq!(subjects, wanted, "{plan}");
        assert!(plan.starts_with(&format!("backend      {backend}\n")), "{plan}");
        let own_root = ["container", "firecracker", "gondolin"].contains(&backend);
        assert_eq!(plan.contains("\nhome         /root\n"), own_root, "{plan}");
    }
    assert!(!place.work().join("made").exists());
}

#[test]
fn workspace_read_only_or_none_restricts_writes() {
    let place = RunDir::new();
    fs::write(place.work().join("file"), "here").unwrap();
    assert_eq!(text(&place.run(&["--workspace-ro"], &["cat", "file"]).stdout), "here");
    assert!(!place.run(&["--workspace-ro"], &["sh", "-c", "echo x > file"]).status.success());
    let file = place.work().join("file").display().to_string();
    assert!(!place.run(&["--workspace", "none"], &["cat", &file]).status.success());
    assert_eq!(text(&place.run(&["--workspace", "none", "--ro", &file], &["cat", &file]).stdout), "here");
    assert!(!place.run(&["--workspace", "none", "--ro", &file], &["sh", "-c", &format!("echo x > {file}")]).status.success());
}

#[test]
fn doctor_bench_completions_and_man_succeed() {
    let said = |args: &[&str]| {
        let output = Command::new(program()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    };
    assert!(said(&["doctor"]).contains("auto selects linux-native"));
    let report: Value = serde_json::from_str(&said(&["doctor", "--json", "--backend", "linux"])).unwrap();
    assert!(report["backends"][0]["evidence"].as_array().unwrap().len() > 30);
    let table: Value = serde_json::from_str(&said(&["bench", "--json", "--rounds", "5"])).unwrap();
    let names: Vec<&str> = table["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    for backend in ["linux-native", "container"] {
        for what in ["exec in a live sandbox", "create + exec + destroy"] {
            assert!(names.contains(&format!("{backend}: {what}").as_str()), "{names:?}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(&["completions", shell]).contains("workspace-ro"));
    }
    assert!(said(&["man"]).contains(".TH agentd 1"));
    assert!(said(&["run", "--help"]).contains("--allow-degraded"));
}

/// Waits up to 30 s for a process whose output is not read, and returns its exit code.
fn ends_by_itself(mut child: Child) -> Option<i32> {
    for _ in 0..300 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    child.kill().unwrap();
    panic!("the process did not exit within 30 s: {:?}", child.wait());
}

#[test]
fn timeout_and_signals_end_command_whose_output_is_not_read() {
    let place = RunDir::new();
    let start = |options: &[&str], script: &str| {
        place.command(options, &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut late: Vec<Child> = [&["--timeout", "1s"][..], &["--timeout", "1s", "-t"]].map(|options| start(options, "yes")).into();
    // The messages of agentd itself are not read, either.
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut silent = place.command(&["--timeout", "1s"], &["yes"]);
    late.push(silent.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap());
    let enough = "yes | head -c 300000";
    let mut stopped = [("yes", &[][..]), ("yes", &["-t"]), (enough, &[]), (enough, &["--json"])]
        .map(|(script, options)| start(options, script));
    for child in &mut stopped {
        child.stdout.as_mut().unwrap().read_exact(&mut [0u8; 1]).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    for child in &stopped {
        signal(child, libc::SIGTERM);
    }
    for child in late {
        assert_eq!(ends_by_itself(child), Some(124));
    }
    for child in stopped {
        assert_eq!(ends_by_itself(child), Some(143));
    }
}

#[test]
fn closed_output_pipe_ends_command_with_sigpipe() {
    let place = RunDir::new();
    let mut child = place.command(&[], &["yes"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(ends_by_itself(child), Some(128 + libc::SIGPIPE));
}

#[test]
fn nonblocking_streams_of_caller_lose_no_data() {
    let nonblocking = |pipe: &dyn std::os::fd::AsFd| rustix::fs::fcntl_setfl(pipe.as_fd(), rustix::fs::OFlags::NONBLOCK).unwrap();
    let place = RunDir::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    nonblocking(&writer);
    let mut command = place.command(&[], &["head", "-c", "1000000", "/dev/zero"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    drop(command);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), child.wait().unwrap().code()), (1_000_000, Some(0)));

    let (reader, mut writer) = std::io::pipe().unwrap();
    nonblocking(&reader);
    let child = place.command(&["-i"], &["cat"]).stdin(reader).stdout(Stdio::piped()).spawn().unwrap();
    for line in ["one\n", "two\n"] {
        std::thread::sleep(std::time::Duration::from_millis(500));
        writer.write_all(line.as_bytes()).unwrap();
    }
    drop(writer);
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "one\ntwo\n");
}

#[test]
fn home_directory_as_workspace_fails_whatever_home_is_set_to() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let me = rustix::process::geteuid().as_raw().to_string();
    let home = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[2] == me).unwrap()[5].to_owned();
    let place = RunDir::new();
    for other in [None, Some("/nonexistent")] {
        let mut command = place.command(&["--workspace", &home], &["true"]);
        match other {
            None => command.env_remove("HOME"),
            Some(home) => command.env("HOME", home),
        };
        // The home directory of user nobody may be missing, which fails with the same exit code.
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{other:?}: {output:?}");
    }
    fs::create_dir_all(place.root.path().join("home/.config/gh")).unwrap();
    for path in ["/tmp", "../home", "../home/.config", "../home/.ssh"] {
        let output = place.run(&["--rw", path], &["true"]);
        assert_eq!(output.status.code(), Some(125), "{path}: {output:?}");
    }
}

#[test]
fn path_entry_that_links_to_home_grants_nothing() {
    let place = RunDir::new();
    let home = place.root.path().canonicalize().unwrap().join("home");
    fs::create_dir(home.join(".local")).unwrap();
    std::os::unix::fs::symlink("..", home.join(".local/bin")).unwrap();
    let key = home.join(".ssh/id_rsa");
    let path = format!("{}:/usr/bin:/bin", home.join(".local/bin").display());
    let mut command = place.command(&[], &["cat", key.to_str().unwrap()]);
    let output = command.env("HOME", &home).env("PATH", path).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn relative_and_linked_directories_are_resolved() {
    let place = RunDir::new();
    let work = place.work().canonicalize().unwrap();
    fs::create_dir(work.join("sub")).unwrap();
    std::os::unix::fs::symlink(work.join("sub"), work.join("link")).unwrap();
    let (sub, link) = (work.join("sub").display().to_string() + "\n", work.join("link").display().to_string());
    // In the first three cases the current directory is the parent of the workspace.
    let cases: [&[&str]; 6] = [
        &["--workspace", "./sub"],
        &["--follow-links", "--workspace", "link"],
        &["--follow-links", "--workspace", &link],
        &["--cwd", "sub"],
        &["--cwd", "./link/."],
        &["--cwd", &link],
    ];
    for options in cases {
        let output = place.run(options, &["/bin/pwd"]);
        assert_eq!(text(&output.stdout), sub, "{options:?}: {output:?}");
    }
    let output = place.run(&["--cwd", "no/such"], &["/bin/pwd"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("create it, or use an absolute path in the sandbox"), "{output:?}");
}

#[test]
fn deleted_current_directory_fails_only_if_needed() {
    let place = RunDir::new();
    // The shell deletes its current directory, then executes agentd there.
    let run = |options: &str| {
        let gone = place.work().join("gone");
        fs::create_dir(&gone).unwrap();
        let script = format!("rmdir {} && exec {} run {options} -- /bin/pwd", gone.display(), program());
        let inner = place.command(&[], &[]);
        let mut shell = Command::new("sh");
        shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        shell.args(["-c", &script]).current_dir(&gone).output().unwrap()
    };
    let work = place.work().canonicalize().unwrap().display().to_string();
    assert_eq!(text(&run("--workspace none --cwd /").stdout), "/\n");
    assert_eq!(text(&run(&format!("--workspace {work}")).stdout), format!("{work}\n"));
    let output = run("");
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("change to an existing directory, or use --workspace"), "{output:?}");
}

#[test]
fn host_direct_with_option_that_it_cannot_enforce_fails() {
    let place = RunDir::new();
    for options in [&["--workspace-ro"][..], &["--ro", "/usr"], &["--profile", "strict"], &["--net", "off"], &["--rw", ".:/x"]] {
        for backend in ["host-direct", "none"] {
            let output = place.run(&[&["--backend", backend], options].concat(), &["touch", "made"]);
            assert_eq!(output.status.code(), Some(125), "{options:?}: {output:?}");
            assert!(text(&output.stderr).contains("choose another backend or drop the option"), "{output:?}");
        }
    }
    assert!(!place.work().join("made").exists());
    assert!(place.run(&["--backend", "host-direct", "--net", "host", "--workspace", "none"], &["true"]).status.success());
}

#[test]
fn grant_with_target_is_mounted_at_target() {
    let place = RunDir::new();
    fs::create_dir(place.work().join("data")).unwrap();
    fs::write(place.work().join("data/file"), "here").unwrap();
    for options in [&["--rw", "data:/data", "--cwd", "/data"][..], &["--ro", "data:/data", "--cwd", "data"]] {
        let options = [&["--backend", "container", "--workspace", "none"], options].concat();
        let output = place.run(&options, &["cat", "/data/file", "file"]);
        assert_eq!(text(&output.stdout), "herehere", "{options:?}: {output:?}");
    }
    let output = place.run(&["--backend", "linux-native", "--rw", "data:/data"], &["true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    // A colon that is part of an existing path does not separate a target.
    fs::create_dir_all(place.work().join("a:/b")).unwrap();
    fs::write(place.work().join("a:/b/file"), "colon").unwrap();
    let file = place.work().canonicalize().unwrap().join("a:/b/file");
    let output = place.run(&["--workspace", "none", "--ro", "a:/b"], &["cat", file.to_str().unwrap()]);
    assert_eq!(text(&output.stdout), "colon", "{output:?}");
}

#[test]
fn container_root_is_writable_and_private() {
    let place = RunDir::new();
    let before = fs::read("/etc/passwd").unwrap();
    let output = place.run(&["--backend", "container"], &["sh", "-c", "id -u; touch /x && rm -rf /etc/passwd && echo ok"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("0\nok\n", Some(0)), "{output:?}");
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert!(!Path::new("/x").exists());
    // Without a workspace, the command starts in a private home directory.
    let output = place.run(&["--backend", "container", "--workspace", "none"], &["sh", "-c", "pwd; cd && echo x > f && cat f"]);
    assert_eq!(text(&output.stdout), "/root\nx\n", "{output:?}");
    // Files created in the workspace belong to the caller.
    assert!(place.run(&["--backend", "container"], &["touch", "made"]).status.success());
    assert_eq!(fs::metadata(place.work().join("made")).unwrap().uid(), rustix::process::geteuid().as_raw());
}
