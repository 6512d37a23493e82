//! Help texts that fit the terminal, messages that name a remedy, and output whose reader closes the pipe.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use json_document::is_documented;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

#[path = "support/json_document.rs"]
mod json_document;

fn agentd(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
    command.args(args).stdin(Stdio::null()).env_remove("COLUMNS");
    command
}

/// A project with a file and a world-writable directory.
fn project() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    fs::create_dir(place.path().join("shared")).unwrap();
    fs::set_permissions(place.path().join("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    place
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Returns every command that the help texts list: `[]`, `["run"]`, `["sandbox"]`, `["sandbox", "exec"]`, ….
fn commands() -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut next = 0;
    while let Some(command) = all.get(next).cloned() {
        next += 1;
        let help = help(&command, 100);
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = listed
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next());
        all.extend(names.filter(|name| *name != "help").map(|name| [&command[..], &[name.to_owned()]].concat()));
    }
    all
}

fn help(command: &[String], columns: usize) -> String {
    let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
    args.push("--help");
    let output = agentd(&args).env("COLUMNS", columns.to_string()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    text(&output)
}

#[test]
fn help_of_every_command_fits_terminal() {
    let commands = commands();
    assert!(commands.len() > 25, "{commands:?}");
    for command in &commands {
        for columns in [60, 80] {
            // Examples and usage lines are commands, so they are not wrapped.
            let help = help(command, columns);
            let prose = help.lines().filter(|line| !line.contains("agentd "));
            let long: Vec<&str> = prose.filter(|line| line.chars().count() > columns).collect();
            assert_eq!(long, Vec::<&str>::new(), "{command:?} at {columns}");
        }
    }
}

#[test]
fn doctor_output_fits_terminal_and_ends_with_requested_backend() {
    for (backend, ending) in [("host-direct", "host-direct does not prove"), ("linux-native", "linux-native proves")] {
        // The directory for temporary files is not in the current directory, for which `doctor` would print a warning.
        let output = agentd(&["doctor", "--backend", backend]).current_dir("/usr").env("COLUMNS", "60").output().unwrap();
        let output_text = text(&output);
        assert!(output_text.rsplit("\n\n").next().unwrap().starts_with(ending), "{output_text}");
        let long: Vec<&str> =
            output_text.lines().skip_while(|line| !line.is_empty()).filter(|line| line.chars().count() > 60).collect();
        assert_eq!(long, Vec::<&str>::new());
    }
}

#[test]
fn closed_standard_output_ends_every_command_quietly() {
    let place = project();
    let data = tempfile::tempdir().unwrap();
    for args in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["man"],
        &["run", "--explain", "--", "true"],
        &["doctor", "--backend", "host-direct"],
        &["doctor", "--backend", "host-direct", "--json"],
        &["image", "ls", "--json"],
        &["sandbox", "ls", "--json"],
        &["vm", "install-firecracker"],
    ] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let mut command = agentd(args);
        command.current_dir(place.path()).env("HOME", "/nonexistent").env("AGENTD_DATA_DIR", data.path().join("data"));
        let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output)), (Some(141), String::new()), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"]] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let output = agentd(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(text(&output), "", "{args:?}");
    }
}

#[test]
fn invalid_arguments_fail_with_remedy() {
    let place = project();
    for (args, wanted) in [
        (
            &["run", "--memory", "-5", "--", "true"][..],
            "'-5' is not a size in bytes — use a value such as 1048576, 512K, 64M or 1.5G",
        ),
        (&["run", "--timeout", "-1s", "--", "true"], "'-1s' is not a duration — use a value such as"),
        (&["run", "--cpus", "-1", "--", "true"], "'-1' is not a number of CPUs"),
        (&["sandbox", "create", "x", "--ttl", "-1h"], "'-1h' is not a duration"),
        (
            &["run", "--workspace", "file", "--", "true"],
            "--workspace file: not a directory — use the directory that contains this file",
        ),
        (
            &["run", "--ro", "/etc", "--", "true"],
            "path /etc: this system directory is never granted as a whole — grant the subdirectory",
        ),
        (&["run", "--workspace", "shared", "--", "true"], "every user may create files in this directory (mode 1777)"),
        (
            &["run", "--backend", "contaner", "--", "true"],
            "Unknown isolation backend 'contaner'. Available backends: host-direct, ",
        ),
        (&["run", "--backend", "contaner", "--", "true"], "did you mean 'container'?"),
        (&["doctor", "--backend", "linux_natvie"], "did you mean 'linux-native'?"),
        (&["rum", "--", "true"], "a similar subcommand exists: 'run'"),
        (&["rnu"], "a similar subcommand exists: 'run'"),
        (&["dcotor"], "a similar subcommand exists: 'doctor'"),
        (&["sandbox", "exce", "x"], "a similar subcommand exists: 'exec'"),
        (&["sandbox", "creat"], "a similar subcommand exists: 'create'"),
        (&["sandbox", "sl"], "Usage: agentd sandbox [OPTIONS] <COMMAND>"),
        (&["daemon", "stpo"], "a similar subcommand exists: 'stop'"),
        (&["daemon", "lgo"], "a similar subcommand exists: 'log'"),
        (&["run", "--grace", "-1s", "--", "true"], "'-1s' is not a duration"),
        (
            &["run", "--net", "allow=https://host.example/v1", "--", "true"],
            "network grant \"https://host.example/v1\": not of the form HOST[:PORT][/PROTOCOL][/METHOD:PATH] — write `host.example`",
        ),
        (&["run", "--net", "allow=a.example,b.example/", "--", "true"], "\"b.example/\": not of the form"),
        (&["run", "--net", "allow=10.0.0.1", "--", "true"], "needs a port — add one, as in `10.0.0.1:443`"),
        (&["run", "--net", "allow=a.example,", "--", "true"], "remove the extra comma, and write no space after a comma"),
        (&["run", "--net", "host.example:8443", "--", "true"], "as in --net allow=host.example:8443"),
        (
            &["run", "--net", "file=missing", "--", "true"],
            "read network grants: missing: No such file or directory (os error 2) — check the path",
        ),
        (
            &["net", "check", "a.example", "--grants", "missing"],
            "read network grants: missing: No such file or directory (os error 2) — check the path",
        ),
        (&["receipt", "verify", "missing"], "read receipt: missing: No such file or directory (os error 2) — check the path"),
        (&["receipt", "verify", "shared"], "read receipt: shared: not a regular file — name a file"),
        (
            &["man", "file/man1"],
            "create a directory: file/man1: Not a directory (os error 20) — use a path whose directories exist",
        ),
        (&["net", "check", "https://host.example/v1"], "— write `host.example`"),
    ] {
        let output = agentd(args).current_dir(place.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        assert!(text(&output).contains(wanted), "{args:?}: {}", text(&output));
    }
}

#[test]
fn limits_accept_fractions_and_large_units() {
    let place = project();
    let limits = ["--timeout", "1.5h", "--cpu-time", "0.5m", "--memory", "10P", "--file-size", "1.5G", "--max-output", "0.5M"];
    let output =
        agentd(&[&["run", "--explain"][..], &limits, &["--", "true"]].concat()).current_dir(place.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn man_writes_page_for_every_command() {
    let place = tempfile::tempdir().unwrap();
    let pages = place.path().join("share/man1");
    let output = agentd(&["man", pages.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let names = |directory: &Path| -> BTreeSet<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let wanted = commands().iter().map(|command| [&["agentd".to_owned()][..], command].concat().join("-") + ".1").collect();
    assert_eq!(names(&pages), wanted);
}

#[test]
fn help_names_defaults_of_its_own_command() {
    let of = |command: &[&str], option: &str| {
        let help = help(&command.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), 100);
        let from = help.lines().skip_while(|line| !line.trim_start().starts_with(option)).take(3).collect::<Vec<_>>().join(" ");
        from.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(of(&["run"], "--workspace <").contains("[default: the current directory]"));
    assert!(of(&["sandbox", "create"], "--workspace <").contains("[default: none]"));
    assert!(of(&["run"], "--cwd <").contains("Default, the first of these: the current directory if"));
    assert!(of(&["sandbox", "exec"], "--cwd <").contains("[default: that of the image, or the home directory]"));
}

#[test]
fn net_check_reports_what_grant_file_allows_and_refuses() {
    let place = project();
    let file = place.path().join("grants.toml");
    fs::write(&file, "presets = ['go']\nallow = ['api.example:80/GET:/v1/*']\ndeny_reason = 'ask the platform team'").unwrap();
    let check = |destination: &str, more: &[&str]| {
        let output = agentd(&["net", "check", destination, "--grants"]).arg(&file).args(more).output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, text) = check("sum.golang.org:443", &[]);
    assert!(code == Some(0) && text.starts_with("allowed by sum.golang.org:443: TLS"), "{code:?} {text}");
    let (code, text) = check("api.example:80/POST:/v1/x", &[]);
    assert!(
        code == Some(1)
            && text.starts_with("refused: ")
            && text.contains("allows POST /v1/x")
            && text.ends_with("ask the platform team\n"),
        "{code:?} {text}"
    );
    let (code, text) = check("other.example", &["--json"]);
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &object["allowed"], &object["deny_reason"]), (Some(1), &false.into(), &"ask the platform team".into()));
    is_documented("`agentd net`", 0, &[&object]);
    let (code, text) = check("other.example:5432", &["--allow", "other.example:5432"]);
    assert!(code == Some(0) && text.contains("TCP, whose bytes are not examined"), "{code:?} {text}");
    let (code, text) = check("other.example:0", &[]);
    assert!(code == Some(125) && text.contains("use HOST:PORT"), "{code:?} {text}");
    let (code, text) = check("a.example/GET:/x", &["--allow", "a.example/GET:/x"]);
    assert!(code == Some(0) && text.contains("TLS that is inspected; requests: GET:/x"), "{code:?} {text}");
    let (code, text) = check("a.example", &["--preset", "pyton"]);
    assert!(code == Some(125) && text.contains("unknown preset"), "{code:?} {text}");
    fs::write(&file, "allow = ['*']").unwrap();
    let (code, text) = check("a.example", &[]);
    assert!(code == Some(125) && text.contains("grants.toml") && text.contains("every host"), "{code:?} {text}");
}

#[test]
fn net_presets_lists_what_each_preset_grants() {
    let output = agentd(&["net", "presets"]).output().unwrap();
    assert!(output.status.success() && text(&output).contains("python: "), "{output:?}");
    let output = agentd(&["net", "presets", "--json"]).output().unwrap();
    let objects: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert!(objects.as_array().unwrap().iter().all(|preset| !preset["allow"].as_array().unwrap().is_empty()), "{objects}");
    is_documented("`agentd net`", 1, &[&objects[0]]);
}
