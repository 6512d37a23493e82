//! Grants against hostile changes: a sandbox shows only granted objects, whatever links, renames and exchanges happen on the host
//! between two steps.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

#[path = "support/exchange.rs"]
mod exchange;

use exchange::{Exchange, MAX_ATTEMPTS};
use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// A home directory with secrets, a project in it, and separate named sandboxes.
struct GrantDir(TempDir);

impl GrantDir {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("home/.ssh")).unwrap();
        fs::write(place.path("home/.ssh/id_rsa"), "THE KEY").unwrap();
        fs::write(place.path("home/.git-credentials"), "THE KEY").unwrap();
        fs::create_dir_all(place.path("home/pj/docs")).unwrap();
        fs::write(place.path("home/pj/docs/id_rsa"), "no key").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn output(&self, args: &[&str]) -> Output {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("home/pj")).env("HOME", self.path("home"));
        command.env("XDG_CACHE_HOME", cache).env("AGENTD_DATA_DIR", self.path("data"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its output.
    fn agentd(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail without output, and returns the error message.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn grant(&self, path: &str, target: &str) -> String {
        format!("{}:{target}", self.path(path).display())
    }
}

impl Drop for GrantDir {
    fn drop(&mut self) {
        for name in self.agentd(&["sandbox", "ls"]).lines().filter_map(|line| line.split(' ').next().map(str::to_owned)) {
            self.output(&["sandbox", "rm", &name]);
        }
        let Ok(daemon) = fs::read_to_string(self.path("data/sandboxes/keeper/lock")) else { return };
        let pid = rustix::process::Pid::from_raw(daemon.trim().parse().unwrap()).unwrap();
        let own = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        if fs::read_to_string(own).is_ok_and(|line| line.contains(self.0.path().to_str().unwrap())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }
}

/// Runs a command, first undisturbed and then while two paths are exchanged, until some runs have been refused and some have
/// shown the granted object. No run may print anything else.
fn assert_shows_granted_or_refuses(place: &GrantDir, args: &[&str], granted: &str, paths: [&str; 2]) {
    // A version that refuses everything does not pass.
    assert_eq!(place.agentd(args), granted);
    let _exchange = Exchange::begin(&place.path(paths[0]), &place.path(paths[1]));
    let (mut shown, mut refused) = (0, 0);
    for attempt in 0.. {
        if attempt >= 40 && shown > 0 && refused > 0 {
            return;
        }
        assert!(attempt < MAX_ATTEMPTS, "{shown} runs showed the granted object, {refused} were refused");
        let output = place.output(args);
        match (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()) {
            (Some(0), printed) if printed == granted => shown += 1,
            (Some(125), "") => refused += 1,
            _ => panic!("{args:?}: {output:?}"),
        }
    }
}

#[test]
fn named_sandbox_grant_relinked_by_payload_is_refused_at_every_start() {
    let place = GrantDir::new();
    let (outer, inner) = (place.grant("home/pj", "/w"), place.grant("home/pj/docs", "/docs"));
    place.agentd(&["sandbox", "create", "one", "--rw", &outer, "--ro", &inner]);
    place.agentd(&["sandbox", "snapshot", "one", "before"]);
    // The payload of this sandbox cannot do this, because the grant is read-only by both names; another one can.
    fs::rename(place.path("home/pj/docs"), place.path("home/pj/d2")).unwrap();
    symlink(place.path("home/.ssh"), place.path("home/pj/docs")).unwrap();
    place.output(&["sandbox", "snapshot", "one", "after"]);
    let read = ["sandbox", "exec", "one", "--", "cat", "/docs/id_rsa"];
    let message = place.refused(&read);
    assert!(message.contains("agentd sandbox regrant one") && message.contains("the path is now a symbolic link"), "{message}");
    place.agentd(&["sandbox", "restore", "one", "before"]);
    place.refused(&read);
    place.agentd(&["sandbox", "fork", "one", "two"]);
    assert!(place.refused(&["sandbox", "exec", "two", "--", "cat", "/docs/id_rsa"]).contains("regrant two"));
    for more in [&[][..], &["--follow-links"]] {
        let refused = place.refused(&[&["sandbox", "regrant", "one"], more].concat());
        assert!(refused.contains("symbolic link") || refused.contains("private keys"), "{refused}");
    }
    fs::remove_file(place.path("home/pj/docs")).unwrap();
    fs::create_dir(place.path("home/pj/docs")).unwrap();
    fs::write(place.path("home/pj/docs/id_rsa"), "another").unwrap();
    assert!(place.refused(&read).contains("the path now leads to inode"));
    let changed = place.agentd(&["sandbox", "regrant", "one"]);
    assert!(changed.lines().count() == 1 && changed.contains("pj/docs: was inode"), "{changed}");
    assert_eq!(place.agentd(&read), "another");
    assert_eq!(place.agentd(&["sandbox", "regrant", "one"]), "unchanged\n");
}

#[test]
fn named_sandbox_grant_relinked_by_its_own_payload_is_refused_after_snapshot_restore_and_fork() {
    let place = GrantDir::new();
    let (outer, inner) = (place.grant("home/pj", "/w"), place.grant("home/pj/docs", "/docs"));
    place.agentd(&["sandbox", "create", "one", "--rw", &outer, "--rw", &inner]);
    place.agentd(&["sandbox", "snapshot", "one", "before"]);
    let attack = format!("cd /w && mv docs d2 && ln -s {} docs", place.path("home/.ssh").display());
    place.agentd(&["sandbox", "exec", "one", "--", "sh", "-c", &attack]);
    place.agentd(&["sandbox", "snapshot", "one", "after"]);
    place.agentd(&["sandbox", "fork", "one", "two"]);
    let attempt = |name: &str| {
        let refused =
            place.refused(&["sandbox", "exec", name, "--", "sh", "-c", "cat /docs/id_rsa; echo x >/docs/authorized_keys"]);
        assert!(refused.contains("the path is now a symbolic link"), "{name}: {refused}");
    };
    attempt("two");
    for state in ["before", "after"] {
        place.agentd(&["sandbox", "restore", "one", state]);
        attempt("one");
    }
    assert_eq!(fs::read_dir(place.path("home/.ssh")).unwrap().count(), 1);
}

#[test]
fn regrant_of_link_watches_protected_paths_of_target() {
    let place = GrantDir::new();
    place.agentd(&["sandbox", "create", "one", "--rw", &place.grant("home/pj/docs", "/w")]);
    place.agentd(&["sandbox", "exec", "one", "--", "true"]);
    fs::remove_dir_all(place.path("home/pj/docs")).unwrap();
    fs::create_dir(place.path("home/other")).unwrap();
    symlink(place.path("home/other"), place.path("home/pj/docs")).unwrap();
    assert!(place.agentd(&["sandbox", "regrant", "one", "--follow-links"]).contains("home/other"));
    let output = place.output(&["sandbox", "exec", "one", "--", "sh", "-c", "echo x >/w/.envrc"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("home/other/.envrc"), "{output:?}");
}

#[test]
fn named_sandbox_payload_cannot_relink_its_own_read_only_grant() {
    let place = GrantDir::new();
    let (outer, inner) = (place.grant("home/pj", "/w"), place.grant("home/pj/docs", "/docs"));
    place.agentd(&["sandbox", "create", "one", "--rw", &outer, "--ro", &inner]);
    let attack = format!("cd /w; mv docs d2; ln -s {} docs; true", place.path("home/.ssh").display());
    place.agentd(&["sandbox", "exec", "one", "--", "sh", "-c", &attack]);
    place.agentd(&["sandbox", "snapshot", "one", "s"]);
    assert_eq!(place.agentd(&["sandbox", "exec", "one", "--", "cat", "/docs/id_rsa"]), "no key");
}

#[test]
fn record_without_object_identities_is_refused_until_regrant() {
    let place = GrantDir::new();
    place.agentd(&["sandbox", "create", "one", "--ro", &place.grant("home/pj/docs", "/docs")]);
    let record = place.path("data/sandboxes/named/one/record.json");
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    old["version"] = 1.into();
    for grant in old["about"]["spec"]["grants"].as_array_mut().unwrap() {
        grant.as_object_mut().unwrap().retain(|key, _| key != "object" && key != "guard");
    }
    fs::write(&record, old.to_string()).unwrap();
    let read = ["sandbox", "exec", "one", "--", "cat", "/docs/id_rsa"];
    assert!(place.refused(&read).contains("older agentd"));
    assert!(place.agentd(&["sandbox", "regrant", "one"]).contains("was not recorded"));
    assert_eq!(place.agentd(&read), "no key");
}

#[test]
fn run_during_exchange_with_link_shows_no_secret() {
    let place = GrantDir::new();
    symlink(place.path("home/.ssh"), place.path("home/pj/link")).unwrap();
    let grant = place.path("home/pj/docs");
    let key = place.path("home/.ssh/id_rsa");
    // If the path was exchanged just after it was opened, the directory is shown at its new path.
    let script = format!("cd {}; cat {} docs/id_rsa link/id_rsa; true", place.path("home/pj").display(), key.display());
    let args = ["run", "--workspace", "none", "--rw", grant.to_str().unwrap(), "--", "sh", "-c", &script];
    assert_shows_granted_or_refuses(&place, &args, "no key", ["home/pj/docs", "home/pj/link"]);
}

#[test]
fn workspace_exchanged_with_link_to_etc_is_never_etc() {
    let place = GrantDir::new();
    fs::create_dir_all(place.path("rootproj/sub")).unwrap();
    symlink("/etc", place.path("rootproj/link")).unwrap();
    let (project, workspace) = (place.path("rootproj"), place.path("rootproj/sub"));
    let in_sub = |command: &'static str, options: &[&'static str]| -> Vec<String> {
        let workspace = ["--workspace", workspace.to_str().unwrap()];
        [&[command], options, &workspace, &["--", "sh", "-c", "if test -e passwd; then ls; else echo no etc; fi"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    let args = in_sub("run", &[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_shows_granted_or_refuses(&place, &args, "no etc\n", ["rootproj/sub", "rootproj/link"]);

    // A payload of another run replaces the directory by a link, for runs and for a named sandbox.
    place.agentd(&["sandbox", "create", "one", "--workspace", workspace.to_str().unwrap()]);
    let attack = ["run", "--workspace", project.to_str().unwrap(), "--", "sh", "-c", "mv sub old && ln -s /etc sub"];
    place.agentd(&attack);
    assert!(place.refused(&args).contains("--follow-links"));
    let follow = in_sub("run", &["--follow-links"]);
    let follow: Vec<&str> = follow.iter().map(String::as_str).collect();
    assert!(place.refused(&follow).contains("this system directory is never granted as a whole"));
    let refused = place.refused(&["sandbox", "exec", "one", "--", "ls"]);
    assert!(refused.contains("the path is now a symbolic link"), "{refused}");
}

#[test]
fn link_left_by_earlier_run_is_refused_or_reported() {
    let place = GrantDir::new();
    fs::create_dir(place.path("home/pj/data")).unwrap();
    fs::create_dir(place.path("home/other")).unwrap();
    let link_to = |target: &str| {
        let script = format!("rm -rf data; ln -s {} data", place.path(target).display());
        place.agentd(&["run", "--", "sh", "-c", &script]);
    };
    let grant = ["run", "--workspace", "none", "--ro", "./data", "--", "true"];
    link_to("home/.git-credentials");
    assert!(place.refused(&grant).contains("--follow-links"));
    let follow = ["run", "--follow-links", "--workspace", "none", "--ro", "./data", "--", "true"];
    assert!(place.refused(&follow).contains("credentials of Git servers"));
    link_to("home/other");
    assert!(place.refused(&grant).contains("name the target by its own path"));
    let output = place.output(&follow);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && message.contains("./data leads to") && message.contains("home/other"), "{output:?}");
}

#[test]
fn read_only_grant_in_writable_grant_is_read_only_by_every_name() {
    let place = GrantDir::new();
    let (outer, inner) = (place.grant("home/pj", "/w"), place.grant("home/pj/docs", "/r"));
    let run = ["run", "--backend", "container", "--workspace", "none", "--rw", &outer, "--ro", &inner, "--", "sh", "-c"];
    for attack in ["echo x > /w/docs/f", "echo x > /r/f", "mv /w/docs /w/d2", "rm /w/docs/id_rsa"] {
        let output = place.output(&[&run[..], &[attack]].concat());
        assert!(!matches!(output.status.code(), Some(0 | 125)), "{attack}: {output:?}");
    }
    assert_eq!(place.agentd(&[&run[..], &["echo x > /w/f; cat /w/docs/id_rsa /r/id_rsa"]].concat()), "no keyno key");
    let both = ["run", "--backend", "container", "--workspace", "none", "--rw", &outer, "--ro"];
    assert!(place.refused(&[&both[..], &[&place.grant("home/pj", "/r"), "--", "true"]].concat()).contains("drop one"));
}
