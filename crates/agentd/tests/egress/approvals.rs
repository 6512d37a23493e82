//! Hosts that need an approval (`--net approve=`): the line for the user, the commands that decide, and the record.

use crate::{
    EgressTest,
    named_place::{NamedDir, until},
    outer::{PUBLIC, name, reached},
    place::{EgressDir, TOOLS, program},
};
use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

pub const TESTS: &[EgressTest] = &[
    ("approved_host_is_reached_and_the_approval_is_recorded", approved),
    ("denied_host_is_not_reached", denied),
    ("hostile_sandbox_can_neither_flood_nor_forge_requests_for_approvals", hostile),
];

/// Tests of named sandboxes.
pub const NAMED_TESTS: &[EgressTest] = &[("named_sandbox_waits_for_an_approval_of_a_host", named)];

/// A run in the background.
struct RunThatWaits {
    run: Child,
    lines: BufReader<ChildStderr>,
    data: std::path::PathBuf,
}

impl RunThatWaits {
    fn start(place: &EgressDir, backend: &str, options: &[&str], argv: &[&str]) -> Self {
        let mut run = place.command(backend, options, argv);
        let set = run.get_envs().find(|(name, _)| *name == "AGENTD_DATA_DIR").and_then(|(_, value)| value);
        let data = set.map_or_else(|| place.outside("data"), Into::into);
        let mut run = run.env("AGENTD_DATA_DIR", &data).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(run.stderr.take().unwrap());
        Self { run, lines, data }
    }

    /// Returns the next line of agentd about an approval.
    fn line(&mut self) -> String {
        let mut line = String::new();
        while !line.contains("waits for an approval") {
            line.clear();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the run ended");
        }
        line
    }

    /// Types the command of this kind that a line names.
    fn type_command(&self, line: &str, kind: &str) {
        let named = line.split('`').find(|part| part.starts_with(&format!("agentd {kind} "))).unwrap();
        let arguments: Vec<_> = named.split(' ').skip(1).collect();
        let typed = agentd(&self.data, &arguments);
        assert!(typed.status.success(), "{typed:?}");
    }

    fn finish(mut self) -> Output {
        let mut rest = Vec::new();
        self.lines.read_to_end(&mut rest).unwrap();
        let output = self.run.wait_with_output().unwrap();
        Output { stderr: rest, ..output }
    }
}

fn agentd(data: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().env("AGENTD_DATA_DIR", data).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The requests that wait.
fn listed(data: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&agentd(data, &["approvals", "--json"]).stdout).unwrap()
}

/// The decisions about hosts in the audit log, which is sound.
fn host_approvals(data: &std::path::Path) -> Vec<serde_json::Value> {
    let verified = agentd(data, &["audit", "verify"]);
    assert!(verified.status.success(), "{verified:?}");
    let tail = text(&agentd(data, &["audit", "tail", "--json"]).stdout);
    let leaves = tail.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    leaves.filter_map(|leaf| find(&leaf, "host-approval").cloned()).collect()
}

/// Returns the member of this name, wherever it is.
fn find<'v>(value: &'v serde_json::Value, name: &str) -> Option<&'v serde_json::Value> {
    let members = value.as_object()?;
    members.get(name).or_else(|| members.values().find_map(|member| find(member, name)))
}

fn approved(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let receipt = place.outside("receipt.json");
    let script = "curl -sS --cacert ca.pem https://granted.example/a && curl -sS --cacert ca.pem https://granted.example/b";
    let options = ["--json", "--net", "approve=granted.example", "--receipt", receipt.to_str().unwrap()];
    let mut waiting = RunThatWaits::start(&place, backend, &options, &["sh", "-c", script]);
    let line = waiting.line();
    assert!(
        line.starts_with("agentd: network: a connection to granted.example:443 waits for an approval — run `agentd approve ")
    );
    assert_eq!(reached(), [""; 0]);
    // The request is charged to the account of the user's intents.
    let user = format!("user:uid:{}", rustix::process::geteuid().as_raw());
    assert_eq!(listed(&waiting.data)[0]["principal"], user.as_str());
    // The approver reads what runs in the sandbox.
    let asked = listed(&waiting.data)[0]["text"].as_str().unwrap().to_owned();
    assert!(asked.starts_with("the command sh -c curl -sS --cacert ca.pem https://granted.example/a"), "{asked}");
    assert!(asked.contains(" wants to connect to granted.example:443\nnetwork grant: granted.example:443/approve"), "{asked}");
    waiting.type_command(&line, "approve");
    let data = waiting.data.clone();
    let output = waiting.finish();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["stdout"]["text"], "tls /atls /b", "{object:#}");
    let flow = &object["network"]["flows"][0];
    assert_eq!((&flow["rule"], &flow["flows"]), (&"granted.example:443/approve".into(), &2.into()), "{object:#}");
    let by = flow["approved_by"].as_str().unwrap();
    assert!(by.starts_with("uid:"), "{by}");
    let [leaf] = &host_approvals(&data)[..] else { panic!("{:?}", host_approvals(&data)) };
    assert_eq!(
        (&leaf["destination"], &leaf["grant"], &leaf["approved"]),
        (&"granted.example:443".into(), &"granted.example:443/approve".into(), &true.into())
    );
    let words = ["approver", "id"].map(|name| leaf[name].as_str().unwrap().to_owned());
    assert_eq!(format!("{} ({})", words[0], words[1]), by);
    // The receipt is a signed envelope, whose statement is in base 64.
    let envelope: serde_json::Value = serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap();
    let statement = data_encoding::BASE64.decode(envelope["payload"].as_str().unwrap().as_bytes()).unwrap();
    assert!(text(&statement).contains(&format!("granted.example:443/approve; approved by {by}")), "{}", text(&statement));
}

fn denied(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let argv =
        ["/usr/bin/python3", "-c", &[TOOLS, "attempt('granted.example', 2222)\nattempt('granted.example', 2222)"].concat()];
    let mut waiting = RunThatWaits::start(&place, backend, &["--net", "approve=granted.example:2222"], &argv);
    let line = waiting.line();
    waiting.type_command(&line, "deny");
    let data = waiting.data.clone();
    let output = waiting.finish();
    assert_eq!(text(&output.stdout), "granted.example 2222 ECONNRESET\n".repeat(2), "{output:?}");
    assert!(text(&output.stderr).contains("granted.example:2222 was refused: uid:"), "{output:?}");
    assert_eq!(reached(), [""; 0]);
    // No request is left, and the audit log has the decision.
    assert_eq!(listed(&data), serde_json::json!([]));
    let leaves = host_approvals(&data);
    assert_eq!((leaves.len(), &leaves[0]["approved"]), (1, &false.into()), "{leaves:?}");
}

/// Names with control characters do not exist. Many names give few requests, and the requests end with the command.
fn hostile(backend: &str) {
    let place = EgressDir::new();
    let script = r#"
import threading
for name in ('a\x1b[2J.granted.example', 'a\nagentd: network: b.granted.example', 'a`true`.granted.example'):
    attempt(name, 2222)
def one(number):
    try:
        socket.create_connection(('n%d.granted.example' % number, 2222), 60).recv(1)
    except OSError: pass
threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(40)]
for thread in threads: thread.start()
for thread in threads[:]:
    # Those above the bound end at once.
    while thread.is_alive() and sum(thread.is_alive() for thread in threads) > 8: thread.join(0.01)
sys.stdin.read()
os._exit(0)
"#;
    let argv = ["/usr/bin/python3", "-c", &[TOOLS, script].concat()];
    let mut run = place.command(backend, &["-i", "--net", "approve=*.granted.example:2222"], &argv);
    let data = place.outside("data");
    if run.get_envs().all(|(name, _)| name != "AGENTD_DATA_DIR") {
        run.env("AGENTD_DATA_DIR", &data);
    }
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap());
    // Refusals may be printed before the last request.
    let (mut waiting, mut rest) = (0, String::new());
    while waiting < 8 {
        let mut line = String::new();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "{rest}");
        if line.contains(".granted.example:2222 waits for an approval") { waiting += 1 } else { rest += &line }
    }
    drop(run.stdin.take());
    lines.read_to_string(&mut rest).unwrap();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{rest}");
    assert!(!rest.contains("waits for an approval") && !rest.contains('\u{1b}'), "{rest}");
    assert!(rest.contains("8 destinations of the sandbox already wait for an approval"), "{rest}");
    assert_eq!(reached(), [""; 0]);
}

fn named(_: &str) {
    name("granted.example", &[PUBLIC]);
    let place = NamedDir::new();
    place.agentd(&["create", "dev", "--net", "approve=granted.example:2222"]);
    let script = "exec 3<>/dev/tcp/granted.example/2222 && echo near >&3 && read -r line <&3 && echo $line";
    let mut command = place.command(&["exec", "dev", "--", "bash", "-c", script]);
    let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let data = place.path("data");
    let listed = || listed(&data);
    until("the connection waits", || listed()[0]["id"].is_string());
    let waiting = listed();
    assert_eq!(
        waiting[0]["text"],
        "sandbox dev wants to connect to granted.example:2222\nnetwork grant: granted.example:2222/approve"
    );
    assert_eq!(reached(), [""; 0]);
    let id = waiting[0]["id"].as_str().unwrap();
    // The user of the command reads what to do, while the command waits.
    let lines = BufReader::new(command.stderr.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("waits for an approval")).unwrap();
    let says = "agentd: network: a connection to granted.example:2222 waits for an approval — run `agentd approve ";
    assert!(line.starts_with(&format!("{says}{}`", &id[..12])), "{line}");
    assert!(agentd(&data, &["approve", id]).status.success());
    assert_eq!(text(&command.wait_with_output().unwrap().stdout), "near\n");
    // The decision holds for the next command.
    assert_eq!(place.bash("dev", script), "near\n");
    let log = place.net(&["log", "dev", "--json"]);
    let flows: serde_json::Value = serde_json::from_slice(&log.stdout).unwrap();
    assert!(flows["flows"][0]["approved_by"].as_str().unwrap().starts_with("uid:"), "{flows:#}");
    // Revoking the network grant forgets the decision.
    place.agentd(&["net", "dev", "--revoke", "granted.example:2222/approve"]);
    place.agentd(&["net", "dev", "--allow", "granted.example:2222/approve"]);
    let again = place.command(&["exec", "dev", "--", "bash", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    until("the connection waits again", || listed()[0]["id"].is_string());
    assert!(agentd(&data, &["deny", listed()[0]["id"].as_str().unwrap()]).status.success());
    assert_eq!(text(&again.wait_with_output().unwrap().stdout), "");
    assert_eq!(host_approvals(&data).iter().map(|leaf| leaf["approved"] == true).collect::<Vec<_>>(), [true, false]);
    // A request whose grant is revoked is not listed any longer.
    place.agentd(&["net", "dev", "--revoke", "granted.example:2222/approve"]);
    place.agentd(&["net", "dev", "--allow", "granted.example:2222/approve"]);
    let third = place.command(&["exec", "dev", "--", "bash", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    until("the connection waits a third time", || listed()[0]["id"].is_string());
    place.agentd(&["net", "dev", "--revoke", "granted.example:2222/approve"]);
    until("the request is withdrawn", || listed() == serde_json::json!([]));
    assert_eq!(text(&third.wait_with_output().unwrap().stdout), "");
}
