//! `agentd run` as a user meets it: the real program, real commands, real limits.
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

/// The program under test; another copy of it where this user cannot reach cargo's.
fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A workspace with a home directory beside it, which holds a secret.
struct Place {
    root: TempDir,
}

impl Place {
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
        // The cache of the probe is shared by all tests, so that one of them pays for it.
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        run.arg("run").args(options).arg("--").args(command);
        run.current_dir(self.work()).env("HOME", self.root.path().join("home")).env("XDG_CACHE_HOME", cache);
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

/// Whether this user may make control groups; what needs them is refused otherwise, with advice.
fn has_groups() -> bool {
    let place = Place::new();
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
fn a_command_runs_and_what_was_enforced_is_said() {
    let place = Place::new();
    assert_eq!(text(&place.run(&[], &["python3", "-c", "print(6*7)"]).stdout), "42\n");
    let said = json(&place.run(&["--json"], &["python3", "-c", "print(6*7)"]));
    assert_eq!((said["stdout"]["text"].as_str(), said["exit_code"].as_i64()), (Some("42\n"), Some(0)));
    for what in ["files", "processes", "network", "syscalls"] {
        assert_eq!(said["enforced"][what], true, "{what}");
    }
    assert_eq!(said["degraded"], Value::Array(Vec::new()));
}

#[test]
fn host_direct_claims_nothing() {
    let place = Place::new();
    let said = json(&place.run(&["--json", "--backend", "workstation"], &["echo", "hi"]));
    assert_eq!(said["stdout"]["text"], "hi\n");
    for what in ["files", "processes", "network", "syscalls"] {
        assert_eq!(said["enforced"][what], false, "{what}");
    }
}

#[test]
fn the_host_is_out_of_reach() {
    let place = Place::new();
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
        let output = place.run(&[], command);
        assert!(!output.status.success(), "{command:?}: {output:?}");
    }
    // The directory above is the sandbox's own.
    place.sh("echo x > ../outside-the-workspace");
    assert!(!place.root.path().join("outside-the-workspace").exists());
}

#[test]
fn ordinary_work_works() {
    let place = Place::new();
    fs::write(place.work().join("hello.c"), "int puts(const char *); int main(void) { puts(\"hello\"); return 0; }").unwrap();
    let scripts = [
        ("cc hello.c && ./a.out", "hello\n"),
        (
            "git init -q g && cd g && git config user.email a@b.c && git config user.name n && echo x > f && git add f && git commit -qm m && git log --format=%s",
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
    // What was made belongs to the caller.
    let made = fs::metadata(place.work().join("f")).unwrap();
    assert_eq!(made.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn a_command_may_open_as_many_files_as_its_caller() {
    let place = Place::new();
    // The launcher itself takes all that it may.
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
fn a_crate_is_built_with_the_callers_toolchain() {
    // It lies in the caller's home.
    let Some(real_home) = std::env::var_os("HOME").filter(|home| Path::new(home).join(".cargo/bin/cargo").exists()) else {
        // An ordinary user of the tests has none.
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let place = Place::new();
    let script = "cargo new -q --vcs none c && cd c && cargo build -q && ./target/debug/c";
    let output =
        place.command(&[], &["sh", "-c", script]).env("HOME", real_home).env_remove("CARGO_TARGET_DIR").output().unwrap();
    assert_eq!(text(&output.stdout), "Hello, world!\n", "{output:?}");
}

#[test]
fn hooks_and_settings_in_the_workspace_stay_as_they_are() {
    let place = Place::new();
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
    // What was not there can be made; the caller is told.
    let output = place.sh("echo evil > .envrc; echo evil > .git/commondir; echo evil > AGENTS.md");
    for made in [".envrc", ".git/commondir", "AGENTS.md"] {
        assert!(text(&output.stderr).contains(&format!("{made}, which programs outside may execute or obey")), "{output:?}");
    }
    // Now they are there.
    for made in [".envrc", ".git/commondir", "AGENTS.md"] {
        assert!(!place.sh(&format!("echo evil > {made}")).status.success(), "{made}");
    }
}

#[test]
fn hooks_stay_as_they_are_wherever_git_finds_them() {
    let place = Place::new();
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

    let place = Place::new();
    fs::write(place.work().join(".git"), "gitdir: ../elsewhere\n").unwrap();
    for script in ["echo evil > .git", "rm .git", "mv .git x"] {
        assert!(!place.sh(script).status.success(), "{script}");
    }
}

#[test]
fn exit_codes_are_those_of_a_shell() {
    let place = Place::new();
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
    let place = Place::new();
    let options: Vec<&str> = [&["--json"], options].concat();
    let output = place.run(&options, command);
    let said = json(&output);
    assert_eq!((said["reason"].as_str(), output.status.code()), (Some(reason), Some(code)), "{options:?} {command:?}: {said}");
}

#[test]
fn each_limit_ends_the_command_and_says_so() {
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
fn output_streams_live_and_stops_at_its_limit() {
    let place = Place::new();
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
    assert_eq!(text(&output.stderr), "agentd: ended at its output (--max-output)\n");
}

/// Starts a command that prints a line, waits for it, and gives both.
fn started(place: &Place, script: &str) -> Child {
    let mut child = place.command(&[], &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
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

/// Whether a process lives whose whole command line is this. (That of a launcher is its parent's.)
fn alive(command: &str) -> bool {
    let line = command.replace(' ', "\0") + "\0";
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|e| fs::read(e.path().join("cmdline")).is_ok_and(|found| found == line.as_bytes()))
}

#[test]
fn an_interrupt_ends_the_tree() {
    let place = Place::new();
    for (number, signal, code) in [(1, libc::SIGINT, 130), (2, libc::SIGTERM, 143)] {
        let seconds = format!("77{number}{}", std::process::id());
        let mut child = started(&place, &format!("echo; trap '' INT TERM; setsid sleep {seconds} & sleep {seconds}"));
        self::signal(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(code), None));
        assert!(!alive(&format!("sleep {seconds}")));
    }
}

#[test]
fn a_killed_client_leaves_no_command() {
    let place = Place::new();
    let seconds = format!("773{}", std::process::id());
    let mut child = started(&place, &format!("echo; setsid sleep {seconds} & sleep {seconds}"));
    child.kill().unwrap();
    child.wait().unwrap();
    while alive(&format!("sleep {seconds}")) {
        std::thread::yield_now();
    }
}

#[test]
fn the_plan_is_shown_and_nothing_is_run() {
    let place = Place::new();
    let output = place.run(&["--explain", "--memory", "64M", "--ro", "/usr/share"], &["touch", "made"]);
    let plan = text(&output.stdout);
    for part in ["namespaces", "landlock", "seccomp", "cgroup       memory 64M, no swap", "/usr/share (read-only)", "privileges"]
    {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    let options = ["--explain", "--backend", "container", "--ro", "/usr/share:/share"];
    let plan = text(&place.run(&options, &["touch", "made"]).stdout);
    for part in [
        "root         its own",
        "system ",
        "/etc/passwd",
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
fn a_readonly_workspace_and_none_at_all() {
    let place = Place::new();
    fs::write(place.work().join("file"), "here").unwrap();
    assert_eq!(text(&place.run(&["--workspace-ro"], &["cat", "file"]).stdout), "here");
    assert!(!place.run(&["--workspace-ro"], &["sh", "-c", "echo x > file"]).status.success());
    let file = place.work().join("file").display().to_string();
    assert!(!place.run(&["--workspace", "none"], &["cat", &file]).status.success());
    assert_eq!(text(&place.run(&["--workspace", "none", "--ro", &file], &["cat", &file]).stdout), "here");
    assert!(!place.run(&["--workspace", "none", "--ro", &file], &["sh", "-c", &format!("echo x > {file}")]).status.success());
}

#[test]
fn the_other_commands_answer() {
    let said = |args: &[&str]| {
        let output = Command::new(program()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    };
    assert!(said(&["doctor"]).contains("auto takes linux-native"));
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

/// Waits for an end that must not need its reader; the exit code.
fn ends_by_itself(mut child: Child) -> Option<i32> {
    for _ in 0..300 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    child.kill().unwrap();
    panic!("it goes on for ever: {:?}", child.wait());
}

#[test]
fn deadlines_and_signals_hold_while_the_reader_stands_still() {
    let place = Place::new();
    let start = |options: &[&str], script: &str| {
        place.command(options, &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut late: Vec<Child> = [&["--timeout", "1s"][..], &["--timeout", "1s", "-t"]].map(|options| start(options, "yes")).into();
    // Nor is there a reader of what agentd says.
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
fn a_command_ends_with_its_reader() {
    let place = Place::new();
    let mut child = place.command(&[], &["yes"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(ends_by_itself(child), Some(128 + libc::SIGPIPE));
}

#[test]
fn callers_with_nonblocking_streams_lose_nothing() {
    let nonblocking = |pipe: &dyn std::os::fd::AsFd| rustix::fs::fcntl_setfl(pipe.as_fd(), rustix::fs::OFlags::NONBLOCK).unwrap();
    let place = Place::new();
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
fn no_home_is_a_workspace_whatever_home_says() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let me = rustix::process::geteuid().as_raw().to_string();
    let home = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[2] == me).unwrap()[5].to_owned();
    let place = Place::new();
    for other in [None, Some("/nonexistent")] {
        let mut command = place.command(&["--workspace", &home], &["true"]);
        match other {
            None => command.env_remove("HOME"),
            Some(home) => command.env("HOME", home),
        };
        // That of the user nobody may not exist, and is refused for that.
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
fn a_tool_that_leads_to_the_home_grants_nothing() {
    let place = Place::new();
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
fn relative_and_linked_directories_are_those_they_lead_to() {
    let place = Place::new();
    let work = place.work().canonicalize().unwrap();
    fs::create_dir(work.join("sub")).unwrap();
    std::os::unix::fs::symlink(work.join("sub"), work.join("link")).unwrap();
    let (sub, link) = (work.join("sub").display().to_string() + "\n", work.join("link").display().to_string());
    // The current directory lies above the workspaces of the first three.
    let cases: [&[&str]; 6] = [
        &["--workspace", "./sub"],
        &["--workspace", "link"],
        &["--workspace", &link],
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
    assert!(text(&output.stderr).contains("create it, or give an absolute path inside the sandbox"), "{output:?}");
}

#[test]
fn a_current_directory_that_is_gone_matters_only_where_it_is_needed() {
    let place = Place::new();
    // The shell's directory goes, then agentd starts in it.
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
    assert!(text(&output.stderr).contains("go into a directory that exists, or name one with --workspace"), "{output:?}");
}

#[test]
fn host_direct_refuses_what_it_cannot_hold() {
    let place = Place::new();
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
fn a_grant_is_shown_at_its_target() {
    let place = Place::new();
    fs::create_dir(place.work().join("data")).unwrap();
    fs::write(place.work().join("data/file"), "here").unwrap();
    for options in [&["--rw", "data:/data", "--cwd", "/data"][..], &["--ro", "data:/data", "--cwd", "data"]] {
        let options = [&["--backend", "container", "--workspace", "none"], options].concat();
        let output = place.run(&options, &["cat", "/data/file", "file"]);
        assert_eq!(text(&output.stdout), "herehere", "{options:?}: {output:?}");
    }
    let output = place.run(&["--backend", "linux-native", "--rw", "data:/data"], &["true"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    // A path with a colon is a path.
    fs::create_dir_all(place.work().join("a:/b")).unwrap();
    fs::write(place.work().join("a:/b/file"), "colon").unwrap();
    let file = place.work().canonicalize().unwrap().join("a:/b/file");
    let output = place.run(&["--workspace", "none", "--ro", "a:/b"], &["cat", file.to_str().unwrap()]);
    assert_eq!(text(&output.stdout), "colon", "{output:?}");
}

#[test]
fn a_container_has_a_root_that_may_be_destroyed() {
    let place = Place::new();
    let before = fs::read("/etc/passwd").unwrap();
    let output = place.run(&["--backend", "container"], &["sh", "-c", "id -u; touch /x && rm -rf /etc/passwd && echo ok"]);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("0\nok\n", Some(0)), "{output:?}");
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert!(!Path::new("/x").exists());
    // It starts in a home that is its own where no directory is named.
    let output = place.run(&["--backend", "container", "--workspace", "none"], &["sh", "-c", "pwd; cd && echo x > f && cat f"]);
    assert_eq!(text(&output.stdout), "/root\nx\n", "{output:?}");
    // What it makes in the workspace belongs to the caller.
    assert!(place.run(&["--backend", "container"], &["touch", "made"]).status.success());
    assert_eq!(fs::metadata(place.work().join("made")).unwrap().uid(), rustix::process::geteuid().as_raw());
}
