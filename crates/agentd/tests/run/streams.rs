//! Standard streams, terminals and messages.

use crate::place::{RunDir, json, text};
use crate::signals::{ends_by_itself, signal};
use std::{
    fs,
    io::{Read, Write},
    process::{Child, Stdio},
};

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
