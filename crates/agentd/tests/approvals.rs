//! `agentd approvals`, `agentd approve`, `agentd deny` and `agentd state check`, as a user runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use agentd_records::{ContentDigest, Timestamp};
use agentd_state::{
    ApprovalState, BeginIntent, Begun, EndIntent, Ending, IntentId, Quota, RequestApproval, Retention, StateStore,
};
use std::{
    fs,
    process::{Command, Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A user, and a process that executes intents of the user.
struct User {
    directory: TempDir,
    runtime: Runtime,
}

impl User {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { directory: tempfile::tempdir().unwrap(), runtime }
    }

    fn store(&self) -> StateStore {
        StateStore::open(&self.directory.path().join("data/state"), Retention::default()).unwrap()
    }

    fn asks(&self, store: &StateStore, text: &str) -> IntentId {
        let now = Timestamp::now();
        let begin = BeginIntent {
            principal: "uid:1000".try_into().unwrap(),
            key: None,
            digest: ContentDigest::of(text.as_bytes()),
            quota: Quota::default(),
            shared: Vec::new(),
            cpu: Duration::ZERO,
            now,
        };
        let answer = self.runtime.block_on(store.begin(begin)).unwrap();
        let Begun::New(intent) = answer else { panic!("{answer:?}") };
        let request = RequestApproval { intent, text: text.to_owned(), expires: now.plus_seconds(600), now };
        self.runtime.block_on(store.request_approval(request)).unwrap();
        intent
    }

    fn decision(&self, store: &StateStore, intent: IntentId) -> ApprovalState {
        self.runtime.block_on(store.approval(intent, Timestamp::now())).unwrap().state
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
        command.args(args).stdin(Stdio::null()).env("AGENTD_DATA_DIR", self.directory.path().join("data"));
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

#[test]
fn commands_without_a_store_create_none() {
    let user = User::new();
    assert_eq!(user.good(&["approvals"]), "no intent waits for an approval\n");
    assert_eq!(user.good(&["approvals", "--json"]), "[]\n");
    assert_eq!(user.good(&["state", "check"]), "there is no store yet: no intent was recorded\n");
    assert_eq!(user.good(&["state", "check", "--json"]), "null\n");
    for command in ["approve", "deny"] {
        let message = user.bad(125, &[command, "abcd"]);
        assert!(message.contains("no intent \"abcd\" waits for an approval"), "{message}");
    }
    assert!(!user.directory.path().join("data").exists());
}

#[test]
fn waiting_intents_are_listed_and_decided_once() {
    let user = User::new();
    let store = user.store();
    let first = user.asks(&store, "rm -r /srv\nreason: clean\u{1b}[2J");
    let second = user.asks(&store, "true");
    let listed = user.good(&["approvals"]);
    for part in [&format!("{first}  uid:1000\n"), "  | rm -r /srv\n  | reason: clean", &second.to_string()] {
        assert!(listed.contains(part), "{listed}");
    }
    assert!(!listed.contains('\u{1b}'), "{listed:?}");
    let json: serde_json::Value = serde_json::from_str(&user.good(&["approvals", "--json"])).unwrap();
    assert_eq!((&json[0]["id"], &json[1]["text"]), (&first.to_string().into(), &"true".into()));
    assert_eq!(user.good(&["approve", &first.to_string()]), format!("{first} approved\n"));
    assert!(matches!(user.decision(&store, first), ApprovalState::Approved { by, .. } if by.to_string().starts_with("uid:")));
    let digits = &second.to_string()[..8];
    assert_eq!(user.good(&["deny", digits]), format!("{second} denied\n"));
    assert!(matches!(user.decision(&store, second), ApprovalState::Denied { .. }));
    for command in ["approve", "deny"] {
        assert!(user.bad(125, &[command, &first.to_string()]).contains("a decision is final"));
        assert!(user.bad(125, &[command, digits]).contains("waits for an approval"));
        assert!(user.bad(125, &[command, "abc"]).contains("too short"));
        assert!(user.bad(125, &[command, "../../x"]).contains("waits for an approval"));
    }
    assert_eq!(user.good(&["approvals"]), "no intent waits for an approval\n");
}

#[test]
fn long_text_is_listed_in_part_and_shown_whole() {
    let user = User::new();
    let store = user.store();
    let text = format!("agent:ci requests shell.exec.v1\nparameters: {}", "é".repeat(9000));
    let intent = user.asks(&store, &format!("{text}\u{1b}[2Jlast"));
    let short = user.asks(&store, "true");
    let listed = user.good(&["approvals"]);
    let shown = listed.matches('é').count();
    let rest = 9000 - shown + "\u{1b}[2Jlast".len();
    assert!(listed.contains("  | parameters: éé") && shown < 9000 && !listed.contains("last"), "{listed}");
    assert!(listed.contains(&format!("  {rest} more characters — `agentd approvals show {intent}` prints them\n")), "{listed}");
    let whole = user.good(&["approvals", "show", &intent.to_string()[..8]]);
    assert!(whole.matches('é').count() == 9000 && whole.ends_with("\\x1b[2Jlast\n"), "{whole}");
    assert!(!whole.contains("more characters") && !whole.contains(&short.to_string()), "{whole}");
    let json: serde_json::Value =
        serde_json::from_str(&user.good(&["approvals", "show", &intent.to_string(), "--json"])).unwrap();
    assert_eq!((&json["id"], &json["text"]), (&intent.to_string().into(), &format!("{text}\u{1b}[2Jlast").into()));
    assert!(user.bad(125, &["approvals", "show", "abcd"]).contains("no intent \"abcd\" waits for an approval"));
}

#[test]
fn check_reports_sound_and_damaged_stores() {
    let user = User::new();
    let store = user.store();
    let intent = user.asks(&store, "true");
    user.asks(&store, "false");
    let end = EndIntent { id: intent, ending: Ending::Finished, outcome: b"done".to_vec(), cpu: None, now: Timestamp::now() };
    user.runtime.block_on(store.end(end)).unwrap();
    let report = user.good(&["state", "check"]);
    assert!(report.starts_with("the store is sound: schema version 3, "), "{report}");
    assert!(report.contains("intents: 1 in flight, 0 whose process died, 1 ended\n"), "{report}");
    drop(store);
    let json: serde_json::Value = serde_json::from_str(&user.good(&["state", "check", "--json"])).unwrap();
    assert_eq!((&json["orphaned"], &json["ended"], &json["problems"]), (&1.into(), &1.into(), &serde_json::json!([])));

    let database = user.directory.path().join("data/state/state.db");
    let mut bytes = fs::read(&database).unwrap();
    let at = bytes.windows(4).position(|window| window == b"done").unwrap();
    bytes[at] = b'D';
    fs::write(&database, &bytes).unwrap();
    let message = user.bad(1, &["state", "check"]);
    assert!(message.contains("of intents does not match its checksum"), "{message}");
    fs::write(&database, &bytes[..bytes.len() / 2]).unwrap();
    let message = user.bad(1, &["state", "check"]);
    assert!(message.contains("restore the folder `state` from a backup"), "{message}");
    // Without permission, nothing is known about the store.
    fs::remove_file(&database).unwrap();
    std::os::unix::fs::symlink("elsewhere", &database).unwrap();
    assert!(user.bad(125, &["state", "check"]).contains("not a regular file"));
}
