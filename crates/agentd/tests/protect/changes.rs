//! Changes of protected paths that exist, and of listed names in subdirectories.

use super::project::{Project, text};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
};

#[test]
fn protected_file_replaced_by_host_during_run_is_reported() {
    let project = Project::new();
    fs::write(project.path("CLAUDE.md"), "mine").unwrap();
    let mut run = project.command(&["-i"], &["sh", "-c", "echo ready; read x; echo evil >CLAUDE.md"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    // Rename over the file, as editors and git do: the kernel then detaches the sandbox's mount.
    fs::write(project.path("CLAUDE.new"), "mine").unwrap();
    fs::rename(project.path("CLAUDE.new"), project.path("CLAUDE.md")).unwrap();
    project.git(&["config", "remote.x.url", "y"]);
    run.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    for name in ["CLAUDE.md", ".git/config"] {
        assert!(said.lines().any(|line| line.contains("replaced: ") && line.contains(name)), "{name}: {said}");
    }
}

#[test]
fn listed_names_in_subdirectories_are_writable_and_each_change_is_reported() {
    let project = Project::new();
    for name in ["a/.envrc", "a/AGENTS.md", "a/b/.npmrc", "a/.vscode/tasks.json"] {
        fs::create_dir_all(project.path(name).parent().unwrap()).unwrap();
        fs::write(project.path(name), "mine").unwrap();
    }
    let script =
        "set -e; cd a; echo evil >>.envrc; rm AGENTS.md; echo evil >b/new; mv b/new b/.npmrc; echo evil >.vscode/tasks.json
        ln .envrc link; echo evil >>link; rm link; mkdir c; echo evil >c/CLAUDE.md; git init -q d";
    let expected = [
        "changed a/.envrc",
        "changed a/.vscode/tasks.json",
        "removed a/AGENTS.md",
        "replaced a/b/.npmrc",
        "created a/c/CLAUDE.md",
        "created a/d/.git",
    ];
    assert_eq!(project.reported(script), expected);
    // Four changes in one directory have a line each, more have one line.
    let four = "set -e; for i in 1 2 3 4; do mkdir -p s/$i; echo >s/$i/.npmrc; done";
    assert_eq!(text(&project.run(&[], four).stderr).matches("protected path created: ").count(), 4);
    let said = text(&project.run(&[], "for i in 1 2 3 4 5; do echo evil >s/$i.code-workspace; done; echo evil >s/.envrc").stderr);
    let line = said.lines().find(|line| line.contains("protected paths in subdirectories: ")).unwrap();
    assert!(line.contains("/s: 6 created: .envrc, 1.code-workspace and 4 more of this kind: "), "{line}");
    assert_eq!(said.matches("protected path").count(), 1, "{said}");
}

#[test]
fn hundred_thousand_listed_names_end_the_run_with_a_bounded_report_that_names_what_was_left_out() {
    let project = Project::new();
    let script = "mkdir -p m/n; i=0; while [ $i -lt 100000 ]; do : >m/n/$i.code-workspace; i=$((i+1)); done; echo evil >AGENTS.md; \
        mkdir z; echo evil >z/.envrc";
    let said: Value = serde_json::from_slice(&project.run(&["--json", "--timeout", "600"], script).stdout).unwrap();
    let cause = |said: &Value| said["protected_not_compared"][0]["cause"].clone();
    assert_eq!(cause(&said), "too-many-listed");
    let changes = project.changes(&said);
    assert!((30_000..40_000).contains(&changes.len()), "{}", changes.len());
    assert_eq!(changes[0], "created AGENTS.md");
    assert!(changes[..3].contains(&"created z/.envrc".to_owned()), "{:?}", &changes[..3]);
    let warned = project.run(&[], "rm AGENTS.md z/.envrc");
    let warned = text(&warned.stderr);
    assert!(
        warned.contains("removed: ")
            && warned.contains("/z/.envrc")
            && warned.contains("comparison of protected paths incomplete: "),
        "{warned}"
    );
    assert!(warned.lines().count() < 10, "{warned}");
}

#[test]
fn ten_thousand_changes_hide_no_change_of_another_kind_in_the_text() {
    let project = Project::new();
    for name in ["a/.envrc", "a/.npmrc"] {
        fs::create_dir_all(project.path("a")).unwrap();
        fs::write(project.path(name), "mine").unwrap();
    }
    // At the root, in one directory, and as git directories.
    let script = "i=0; while [ $i -lt 5000 ]; do : >$i.code-workspace; : >a/$i.code-workspace; i=$((i+1)); done
        i=0; while [ $i -lt 300 ]; do mkdir -p g/$i/objects g/$i/refs; : >g/$i/HEAD; mkdir -p a/$i; : >a/$i/.envrc; i=$((i+1)); done
        echo evil >zz.sublime-project; rm a/.envrc; echo evil >>a/.npmrc";
    let said = text(&project.run(&["--timeout", "600"], script).stderr);
    let tells = |how: &str, name: &str| said.lines().any(|line| line.contains(how) && line.contains(name));
    assert!(tells("protected path created: ", "/zz.sublime-project"), "{said}");
    assert!(tells("1 removed: ", ".envrc") && tells("1 changed: ", ".npmrc"), "{said}");
    assert!(tells("created: ", "git director") && tells("created: ", " *.code-workspace"), "{said}");
    assert!(said.lines().count() < 10 && said.len() < 8000, "{said}");
}

#[test]
fn protected_file_cannot_be_linked_and_its_change_through_an_older_hard_link_is_reported() {
    let project = Project::new();
    for name in ["CLAUDE.md", ".envrc"] {
        fs::write(project.path(name), "mine\n").unwrap();
    }
    fs::hard_link(project.path("CLAUDE.md"), project.path("other")).unwrap();
    let said = project.reported("ln .envrc new 2>/dev/null && echo evil >>new; echo evil >>other; mv other elsewhere");
    assert_eq!(said, ["changed CLAUDE.md"]);
    assert_eq!(fs::read_to_string(project.path(".envrc")).unwrap(), "mine\n");
}

#[test]
fn tree_of_a_build_is_compared_as_a_whole_and_what_was_left_out_is_named() {
    let project = Project::new();
    for number in 0..1500 {
        fs::create_dir_all(project.path("target").join(number.to_string())).unwrap();
    }
    let output = project.run(&[], "git init -q target/1499");
    let said = text(&output.stderr);
    assert!(said.contains("git directory created: ") && said.contains("target/1499/.git"), "{said}");
    assert!(!said.contains("comparison of protected paths incomplete"), "{said}");
    // A path that is too long for the kernel cannot be searched.
    let deep = "mkdir deep; cd deep; name=$(printf %0250d 0); for i in $(seq 20); do mkdir $name; cd -P $name; done";
    let said: Value = serde_json::from_slice(&project.run(&["--json"], deep).stdout).unwrap();
    assert_eq!(said["protected_incomplete"], true, "{said}");
    let [left_out] = &said["protected_not_compared"].as_array().unwrap()[..] else { panic!("{said}") };
    let place = project.path("deep").canonicalize().unwrap();
    assert!(Path::new(left_out["path"].as_str().unwrap()).starts_with(place), "{said}");
    assert_eq!(left_out["cause"], "unreadable");
    let warned = text(&project.run(&[], "true").stderr);
    assert!(warned.contains("comparison of protected paths incomplete: ") && warned.contains("--ro"), "{warned}");
}

#[test]
fn control_characters_in_reported_names_are_escaped() {
    let project = Project::new();
    let output = project.run(&[], "mkdir -p $(printf 'a\\033[2Jb\\nc') && cd a* && git init -q .");
    let said = text(&output.stderr);
    assert!(said.contains("git directory created: "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains("b\nc"), "{said:?}");
}
