//! Ordinary programs in a sandbox, and the other subcommands.

use crate::place::{RunDir, program, text};
use serde_json::Value;
use std::{fs, os::unix::fs::MetadataExt, process::Command};

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

/// Tests that need the toolchain of root.
mod as_root {
    use super::*;

    #[test]
    fn cargo_builds_crate_with_callers_toolchain() {
        let real_home = std::env::var_os("HOME").unwrap();
        let place = RunDir::new();
        let script = "cargo new -q --vcs none c && cd c && cargo build -q && ./target/debug/c";
        let output =
            place.command(&[], &["sh", "-c", script]).env("HOME", real_home).env_remove("CARGO_TARGET_DIR").output().unwrap();
        assert_eq!(text(&output.stdout), "Hello, world!\n", "{output:?}");
    }
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
    let table: Value = serde_json::from_str(&said(&["bench", "--json", "--rounds", "1"])).unwrap();
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
