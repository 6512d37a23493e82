//! Agent CLIs from npm with their presets, against a server that plays their APIs. The server sends the credential of each
//! request back, and the value of the key is searched for wherever the sandbox could have it.

use crate::{
    managers::installed,
    outer::{PUBLIC, heads, name, target},
    place::EgressDir,
    search::{descendants, has, in_files, in_memory},
    tls,
};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Condvar, Mutex},
    thread,
    time::Duration,
};

pub const TESTS: &[(&str, fn(&str))] = &[
    ("codex_from_npm_works_with_its_preset_and_its_key_stays_outside", codex),
    ("opencode_from_npm_works_with_its_preset_and_its_key_stays_outside", opencode),
];

/// The value of the key, which no other text contains.
const VALUE: &str = "sk-real-7f3a9c5e1b2d4068";

/// Responses of the API of OpenAI: created, one message, completed. `TEXT` stands for the text of the message.
const RESPONSES: &str = r#"event: response.created
data: {"type":"response.created","response":{"id":"resp_1","object":"response","created_at":1,"status":"in_progress","model":"m","output":[]}}

event: response.output_item.added
data: {"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg_1","role":"assistant","status":"in_progress","content":[]}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_1","output_index":0,"content_index":0,"delta":"TEXT"}

event: response.output_item.done
data: {"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"TEXT","annotations":[]}]}}

event: response.completed
data: {"type":"response.completed","response":{"id":"resp_1","object":"response","created_at":1,"status":"completed","model":"m","output":[],"usage":{"input_tokens":1,"input_tokens_details":{"cached_tokens":0},"output_tokens":1,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":2}}}

"#;

/// Responses of the API of Anthropic.
const MESSAGES: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"TEXT"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":1}}

event: message_stop
data: {"type":"message_stop"}

"#;

/// True while answers are held back, so that the program runs during the search.
static HELD: Mutex<bool> = Mutex::new(false);
static RELEASED: Condvar = Condvar::new();

fn hold(held: bool) {
    *HELD.lock().unwrap() = held;
    RELEASED.notify_all();
}

/// Answers the requests of both APIs with a text that contains the credential.
fn api(head: &str) -> Option<String> {
    let events = match target(head).split('?').next()? {
        "/v1/responses" if head.starts_with("POST ") => RESPONSES,
        "/v1/messages" => MESSAGES,
        _ => return None,
    };
    drop(RELEASED.wait_while(HELD.lock().unwrap(), |held| *held).unwrap());
    let is_credential = |line: &&str| ["authorization:", "x-api-key:"].iter().any(|name| line.to_lowercase().starts_with(name));
    let credential = head.lines().find(is_credential).unwrap_or_default();
    Some(events.replace("TEXT", &format!("answer of the test, {credential}.")))
}

/// Runs an agent. It must print the answer, use the key, and never have it.
fn answers(backend: &str, preset: &str, variable: &str, shown: &str, argv: &[&str]) {
    for host in ["api.openai.com", "api.anthropic.com"] {
        name(host, &[PUBLIC]);
    }
    *tls::API.lock().unwrap() = Some(api);
    hold(true);
    let place = EgressDir::new();
    let mut command = place.trusting(backend, &["--preset", preset, "--json", "--ro", shown], argv);
    let run = command.env(variable, VALUE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_asked = || heads("tls").iter().any(|head| head.contains(VALUE) && head.starts_with("POST "));
    while !is_asked() {
        // The time limit of the suite ends the wait for a program that sends no request.
        thread::sleep(Duration::from_millis(20));
    }
    let processes = descendants(run.id());
    // The memory of a process includes its environment.
    let found: Vec<bool> = processes.iter().filter_map(|pid| in_memory(*pid, VALUE)).collect();
    // The home directory of the sandbox is private to it.
    let home = place.outside("home");
    let homes = processes.iter().map(|pid| Path::new(&format!("/proc/{pid}/root")).join(home.strip_prefix("/").unwrap()));
    let files: Vec<PathBuf> = homes.flat_map(|home| in_files(&home, VALUE)).collect();
    hold(false);
    assert!(files.is_empty(), "{files:?}");
    assert!(!found.is_empty() && !found.contains(&true), "the key is in the memory of a process of the sandbox");
    let output = run.wait_with_output().unwrap();
    *tls::API.lock().unwrap() = None;
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let object: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
    let printed = object["stdout"]["text"].as_str().unwrap();
    assert!(printed.contains("answer of the test, "), "{object:#}");
    assert!(!has(&output.stdout, VALUE) && !has(&output.stderr, VALUE), "the key is in the output or in the records of flows");
    let files = in_files(&place.outside(""), VALUE);
    assert!(files.is_empty(), "{files:?}");
}

fn codex(backend: &str) {
    let folder = installed().join("node_modules");
    let program = folder.join(".bin/codex");
    let argv = [program.to_str().unwrap(), "exec", "--skip-git-repo-check", "say hello"];
    answers(backend, "codex", "CODEX_API_KEY", folder.to_str().unwrap(), &argv);
}

fn opencode(backend: &str) {
    let folder = installed().join("node_modules");
    let program = folder.join("opencode-linux-x64/bin/opencode");
    let argv = [program.to_str().unwrap(), "run", "-m", "anthropic/claude-sonnet-4-5", "say hello"];
    answers(backend, "opencode", "ANTHROPIC_API_KEY", folder.to_str().unwrap(), &argv);
}
