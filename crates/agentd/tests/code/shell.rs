//! Live output, streamed input and terminals of `shell.exec.v1`.

use crate::place::{User, object};
use serde_json::json;
use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

fn shell(user: &User, parameters: &serde_json::Value, options: &[&str]) -> Command {
    user.command(&[&["call", "shell.exec.v1", "--params", &parameters.to_string()], options].concat())
}

#[test]
fn output_and_input_are_streamed_while_the_command_runs() {
    let user = User::new();
    let parameters = json!({ "command": "read a; echo got $a; read b; echo got $b >&2; exit 5", "stdin_stream": true });
    let mut call = shell(&user, &parameters, &[]);
    let mut call = call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (call.stdin.take().unwrap(), call.stdout.take().unwrap(), call.stderr.take().unwrap());
    let mut line = [0; 8];
    writeln!(stdin, "one").unwrap();
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"got one\n");
    writeln!(stdin, "two").unwrap();
    stderr.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"got two\n");
    assert_eq!(call.wait().unwrap().code(), Some(5));
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("", ""), "nothing is printed twice");
}

#[test]
fn json_has_bounded_output_and_the_digest_of_all_of_it() {
    let user = User::new();
    let output = shell(&user, &json!({ "command": "head -c 1000000 /dev/zero" }), &["--json"]).output().unwrap();
    let object = object(&output);
    let stdout = &object["result"]["stdout"];
    assert_eq!((&stdout["bytes"], stdout["omitted"].as_u64().unwrap() > 0), (&json!(1_000_000), true));
    std::fs::write(user.path("whole"), vec![0; 1_000_000]).unwrap();
    let expected = Command::new("sha256sum").arg(user.path("whole")).output().unwrap();
    let expected = String::from_utf8(expected.stdout).unwrap();
    let payload = data_encoding::BASE64.decode(object["receipt"]["payload"].as_str().unwrap().as_bytes()).unwrap();
    assert!(String::from_utf8(payload).unwrap().contains(expected.split(' ').next().unwrap()));
}

#[test]
fn streamed_output_is_cut_at_the_limit() {
    let user = User::new();
    let output = shell(&user, &json!({ "command": "yes" }), &["--max-output", "1M"]).output().unwrap();
    assert_eq!(output.stdout.len(), 1 << 20);
    assert!(String::from_utf8_lossy(&output.stderr).contains("output limit exceeded"), "{output:?}");
}

#[test]
fn terminal_has_the_requested_size_and_one_stream() {
    let user = User::new();
    let parameters = json!({ "command": "stty size <&1; tty <&1; echo err >&2", "pty": { "rows": 11, "cols": 77 } });
    let object = object(&shell(&user, &parameters, &["--json"]).output().unwrap());
    let result = &object["result"];
    let text = result["terminal"]["text"].as_str().unwrap();
    assert!(text.starts_with("11 77\r\n/dev/pts/") && text.ends_with("err\r\n"), "{object:#}");
    assert!(result.get("stdout").is_none());
    let payload = data_encoding::BASE64.decode(object["receipt"]["payload"].as_str().unwrap().as_bytes()).unwrap();
    assert!(String::from_utf8(payload).unwrap().contains(r#""name":"terminal""#));
    for parameters in [
        json!({ "command": "true", "pty": { "rows": 0 } }),
        json!({ "command": "true", "pty": { "rows": 1, "more": 1 } }),
        json!({ "command": "true", "pty": {}, "stdin": "a" }),
        json!({ "command": "true", "stdin_stream": true, "stdin_base64": "" }),
    ] {
        assert_eq!(shell(&user, &parameters, &[]).output().unwrap().status.code(), Some(77), "{parameters}");
    }
    let output = shell(&user, &json!({ "command": "true", "pty": {}, "stdin_stream": true }), &[]).output().unwrap();
    assert!(
        output.status.code() == Some(125) && String::from_utf8_lossy(&output.stderr).contains("not a terminal"),
        "{output:?}"
    );
}

/// Runs a script on a terminal of 17 rows and 61 columns. Types `input` when the script has printed `prompt`. Returns its output.
fn on_terminal(user: &User, script: &str, prompt: &str, input: &str) -> String {
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let line = format!("stty rows 17 cols 61; {}", script.replace("agentd", &program));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(user.path("work")).env("AGENTD_DATA_DIR", user.path("data"));
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = running.stdout.take().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains(prompt) {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    // The terminal's input ends with the script.
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    output.read_to_string(&mut text).unwrap();
    drop(stdin);
    running.wait().unwrap();
    text
}

#[test]
fn terminal_of_the_caller_is_raw_and_passes_its_size_on() {
    let user = User::new();
    // The command reads a character without a line feed from its own terminal. It then waits until that terminal has the size
    // that the caller's terminal gets meanwhile.
    let command = "stty -icanon; stty size; head -c 1 >/dev/null; echo char; touch begun; until [ \"$(stty size)\" = '23 45' ]; do sleep 0.05; done; echo resized";
    std::fs::write(user.path("work/p"), json!({ "command": command, "pty": {}, "stdin_stream": true }).to_string()).unwrap();
    let script = "(until [ -e begun ]; do sleep 0.05; done; stty rows 23 cols 45 </dev/tty) & \
                  agentd call shell.exec.v1 --params @p; stty -a | grep -o ' icanon'";
    // Without raw mode of the caller's terminal, the command would not receive the character before the end of the line.
    let text = on_terminal(&user, script, "17 61", "x");
    assert!(text.contains("char") && text.contains("resized"), "{text}");
    assert!(text.contains(" icanon"), "the mode is restored: {text}");
}
