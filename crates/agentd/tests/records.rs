//! `agentd signing-key`, `agentd audit` and `agentd receipt`, as a user runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// A user without any records.
struct User(TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
        command.args(args).stdin(Stdio::null()).current_dir(self.0.path()).env("AGENTD_DATA_DIR", self.path("data"));
        command.output().unwrap()
    }

    /// Runs a command that must succeed, and returns its output.
    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must end with this exit code, and returns its message.
    fn bad(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn first_key_is_private_and_rotation_keeps_the_old_public_key() {
    let user = User::new();
    assert!(user.bad(125, &["audit", "verify"]).contains("nothing was signed on this machine"));
    assert!(!user.path("data").exists(), "reading creates nothing");
    let first = user.good(&["signing-key", "show"]);
    assert_eq!(first.lines().count(), 1);
    assert_eq!(user.good(&["signing-key", "show"]), first);
    let keys = user.path("data/records/keys");
    assert_eq!((mode(&user.path("data/records")), mode(&keys)), (0o700, 0o700));
    let secret =
        fs::read_dir(&keys).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().contains("secret-"));
    assert_eq!(mode(&secret.clone().unwrap()), 0o600);
    let second = user.good(&["signing-key", "rotate"]);
    assert_eq!(second.lines().count(), 2);
    assert!(second.starts_with(first.trim_end()), "{first}{second}");
    assert!(!secret.unwrap().exists(), "the old private key is deleted");
    assert_eq!(user.good(&["signing-key", "show"]), second);
}

#[test]
fn private_key_that_others_can_read_is_refused_until_it_is_replaced() {
    let user = User::new();
    user.good(&["signing-key", "show"]);
    let keys = user.path("data/records/keys");
    let secret = || {
        fs::read_dir(&keys)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().contains("secret-"))
            .unwrap()
    };
    fs::set_permissions(secret(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(user.bad(125, &["signing-key", "show"]).contains("run `agentd signing-key rotate`"));
    assert_eq!(user.good(&["signing-key", "rotate"]).lines().count(), 2);
    user.good(&["audit", "verify"]);
    fs::remove_file(secret()).unwrap();
    assert!(user.bad(125, &["signing-key", "show"]).contains("missing or damaged"));
    assert_eq!(user.good(&["signing-key", "rotate"]).lines().count(), 3);
    user.good(&["audit", "verify"]);
}

#[test]
fn log_is_verified_proven_exported_and_printed() {
    let user = User::new();
    for _ in 0..3 {
        user.good(&["signing-key", "rotate"]);
    }
    let kept = user.good(&["audit", "checkpoint"]);
    fs::write(user.path("kept"), &kept).unwrap();
    user.good(&["signing-key", "rotate"]);
    let verified = user.good(&["audit", "verify", "--checkpoint", "kept"]);
    assert!(verified.contains(": 4 leaves, all as signed by"), "{verified}");
    assert!(verified.contains("the 3 leaves of the kept checkpoint are unchanged"), "{verified}");
    let json: serde_json::Value =
        serde_json::from_str(&user.good(&["audit", "verify", "--json", "--checkpoint", "kept"])).unwrap();
    assert_eq!((&json["leaves"], &json["kept_leaves"]), (&4.into(), &3.into()));
    let tail = user.good(&["audit", "tail", "-n", "2"]);
    assert_eq!(tail.lines().count(), 2);
    assert!(tail.lines().all(|line| line.contains(" administrative {") && line.contains("\"act\":\"key-rotated\"")), "{tail}");
    let line: serde_json::Value = serde_json::from_str(&user.good(&["audit", "tail", "-n", "1", "--json"])).unwrap();
    assert_eq!(line["index"], 3);
    let current = user.good(&["audit", "checkpoint"]);
    let proof = user.good(&["audit", "prove", "2"]);
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nindex 2\n") && proof.ends_with(&current), "{proof}");
    assert!(user.good(&["audit", "prove", "--since", "kept"]).starts_with("old 3\n"));
    assert!(user.bad(125, &["audit", "prove", "4"]).contains("there is no leaf 4"));
    assert!(user.good(&["audit", "export", "copy"]).contains("4 leaves exported"));
    assert!(user.bad(125, &["audit", "export", "copy"]).contains("exists"));
    fs::write(user.path("keys"), user.good(&["signing-key", "show"])).unwrap();
    let auditor = User::new();
    let [copy, keys] = ["copy", "keys"].map(|name| user.path(name).display().to_string());
    auditor.good(&["audit", "verify", "--log", &copy, "--key", &keys]);
    assert!(!auditor.path("data").exists());
}

#[test]
fn changed_log_is_refused_with_exit_code_1() {
    let user = User::new();
    for _ in 0..3 {
        user.good(&["signing-key", "rotate"]);
    }
    let kept = user.good(&["audit", "checkpoint"]);
    fs::write(user.path("kept"), &kept).unwrap();
    user.good(&["audit", "export", "older"]);
    user.good(&["signing-key", "rotate"]);
    fs::write(user.path("kept"), user.good(&["audit", "checkpoint"])).unwrap();
    fs::write(user.path("keys"), user.good(&["signing-key", "show"])).unwrap();
    let bundle = user.path("data/records/audit/tile/entries/000.p/4");
    let text = fs::read(&bundle).unwrap();
    let mut changed = text.clone();
    changed[40] ^= 1;
    fs::write(&bundle, &changed).unwrap();
    assert!(user.bad(1, &["audit", "verify"]).contains("leaf 0 does not match its hash"));
    assert!(user.bad(1, &["audit", "prove", "0"]).contains("restore"));
    fs::write(&bundle, &text).unwrap();
    user.good(&["audit", "verify"]);
    let other = User::new();
    other.good(&["signing-key", "rotate"]);
    fs::write(user.path("foreign"), other.good(&["audit", "checkpoint"])).unwrap();
    assert!(user.bad(1, &["audit", "verify", "--checkpoint", "foreign"]).contains("no known key has signed"));
}

#[test]
fn file_that_is_not_a_receipt_is_refused() {
    let user = User::new();
    user.good(&["signing-key", "show"]);
    fs::write(user.path("receipt"), "{}").unwrap();
    assert!(user.bad(1, &["receipt", "verify", "receipt"]).contains("receipt: envelope"));
    assert!(user.bad(125, &["receipt", "verify", "missing"]).contains("missing"));
    fs::write(user.path("keys"), "# none\n").unwrap();
    assert!(user.bad(125, &["receipt", "verify", "receipt", "--key", "keys"]).contains("the file has no key"));
}

/// Returns the SHA-256 digest of a file, as `sha256sum` prints it.
fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Returns the last leaves of the audit log.
fn leaves(user: &User, count: u32) -> Vec<serde_json::Value> {
    let text = user.good(&["audit", "tail", "--json", "-n", &count.to_string()]);
    text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["leaf"]["event"].clone()).collect()
}

const RUN: [&str; 5] = ["run", "--workspace", "none", "--receipt", "run.receipt"];

#[test]
fn receipt_of_a_run_states_its_command_output_and_end() {
    let user = User::new();
    let [receipt, intent, printed] = ["run.receipt", "run.receipt.intent", "printed"].map(|name| user.path(name));
    for json in [false, true] {
        let script = "printf out; printf err >&2; exit 3";
        let option: &[&str] = if json { &["--json"] } else { &[] };
        let output =
            user.run(&[&RUN[..], option, &["--env", "TOKEN=canary", "--timeout", "1m", "--", "sh", "-c", script]].concat());
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let words = user.good(&["receipt", "verify", "run.receipt"]);
        for (name, content) in [("stdout", "out"), ("stderr", "err")] {
            fs::write(&printed, content).unwrap();
            assert!(words.contains(&format!("\n{name}: sha256 {}\n", sha256(&printed))), "{words}");
        }
        assert!(words.contains("\nended: exited, exit code 3\n") && words.contains("\nlimit wall_us: 60000000\n"), "{words}");
        assert!(words.contains("control seccomp: enforced") && words.contains("attacks before the start:"), "{words}");
        assert!(words.contains(&format!("\nintent: sha256 {}\n", sha256(&intent))), "{words}");
        let described: serde_json::Value = serde_json::from_str(&fs::read_to_string(&intent).unwrap()).unwrap();
        assert_eq!(described["argv"], serde_json::json!(["sh", "-c", script]));
        assert!(described["environment"].as_array().unwrap().contains(&"TOKEN".into()), "{described}");
        let [begin, end] = leaves(&user, 2).try_into().unwrap();
        assert_eq!(begin["intent"]["intent"], sha256(&intent));
        assert_eq!(begin["intent"]["id"], end["outcome"]["id"]);
        assert_eq!((&end["outcome"]["receipt"], &end["outcome"]["exit_code"]), (&sha256(&receipt).into(), &3.into()));
    }
    let found = Command::new("grep").args(["-rl", "canary"]).arg(user.0.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the value of a variable is recorded");
    assert!(!user.good(&["receipt", "verify", "run.receipt"]).contains("canary"));
    let text = fs::read_to_string(&receipt).unwrap();
    fs::write(&receipt, text.replacen("\"sig\": \"", "\"sig\": \"A", 1)).unwrap();
    assert!(user.bad(1, &["receipt", "verify", "run.receipt"]).contains("do not trust it"));
}

#[test]
fn command_that_deletes_or_replaces_receipts_in_its_workspace_leaves_the_copies() {
    let user = User::new();
    fs::create_dir(user.path("work")).unwrap();
    let run = |receipt: &str, script: &str| {
        user.good(&["run", "--workspace", "work", "--receipt", receipt, "--", "sh", "-c", script]);
    };
    run("work/first", "rm first.intent; ln -s /etc/passwd first; ls -A");
    let [begin, end] = leaves(&user, 2).try_into().unwrap();
    let digests = [&begin["intent"]["intent"], &end["outcome"]["receipt"]].map(|digest| digest.as_str().unwrap().to_owned());
    assert!(!user.path("work/first.intent").exists());
    run("work/second", "mv second.intent first; printf '{}' > first.intent");
    assert!(user.bad(1, &["receipt", "verify", "work/first"]).contains("envelope"));
    let copies = digests.map(|digest| user.path("data/records/kept").join(digest));
    assert!(fs::read_to_string(&copies[0]).unwrap().contains("rm first.intent"));
    let words = user.good(&["receipt", "verify", copies[1].to_str().unwrap()]);
    assert!(words.contains(&format!("\nintent: sha256 {}\n", sha256(&copies[0]))), "{words}");
}

#[test]
fn receipt_of_named_backend_states_missing_probe() {
    let user = User::new();
    user.good(&[&RUN[..], &["--backend", "linux-native", "--", "true"]].concat());
    let words = user.good(&["receipt", "verify", "run.receipt"]);
    assert!(words.contains("\nattacks before the start: NONE: the backend was selected by name and not probed\n"), "{words}");
}

#[test]
fn command_that_is_not_executed_gets_a_receipt() {
    let user = User::new();
    assert_eq!(user.run(&[&RUN[..], &["--", "no-such-program"]].concat()).status.code(), Some(127));
    assert!(user.good(&["receipt", "verify", "run.receipt"]).contains("\nended: not-executed\n"));
    assert_eq!(leaves(&user, 1)[0]["outcome"]["reason"], "not-executed");
}

#[test]
fn command_does_not_start_if_its_intent_cannot_be_recorded() {
    let user = User::new();
    user.good(&["signing-key", "rotate"]);
    let audit = user.path("data/records/audit");
    fs::set_permissions(&audit, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(user.bad(125, &[&RUN[..], &["--", "echo", "started"]].concat()).contains("chmod 700"));
    assert!(!user.path("run.receipt").exists());
    assert!(user.bad(125, &["run", "--receipt", "missing/file", "--", "echo", "started"]).contains("create the directory"));
}

#[test]
fn run_whose_end_cannot_be_recorded_has_exit_code_125() {
    let user = User::new();
    let audit = user.path("data/records/audit");
    let mut run = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
    run.args(RUN).args(["-i", "--", "sh", "-c", "echo started; read line; exit 3"]).current_dir(user.0.path());
    run.env("AGENTD_DATA_DIR", user.path("data")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = run.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(running.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "started\n");
    fs::set_permissions(&audit, fs::Permissions::from_mode(0o755)).unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8(output.stderr).unwrap().contains("chmod 700"));
    fs::set_permissions(&audit, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(leaves(&user, 1)[0]["intent"]["source"], "command-line");
}
