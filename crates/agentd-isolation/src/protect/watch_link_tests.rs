//! Tests of the comparison of the targets of links.

use super::*;

/// Creates a file, and the directories above it.
fn file(project: &Project, name: &str) {
    fs::create_dir_all(project.path(name).parent().unwrap()).unwrap();
    fs::write(project.path(name), "mine").unwrap();
}

/// Creates a link, and the directories above it.
fn link(project: &Project, target: &str, name: &str) {
    fs::create_dir_all(project.path(name).parent().unwrap()).unwrap();
    symlink(target, project.path(name)).unwrap();
}

/// Lets the link lead elsewhere.
fn relink(project: &Project, target: &str, name: &str) {
    fs::remove_file(project.path(name)).unwrap();
    symlink(target, project.path(name)).unwrap();
}

/// Lets more than one tick of the clock pass, so that the time stamps show that the current files are older than what follows.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(30));
}

#[test]
fn listed_name_or_git_directory_in_a_git_directory_is_reported() {
    let project = Project::new();
    fs::create_dir(project.path(".git/objects/ab")).unwrap();
    let changes = project.after(|project| {
        file(project, ".git/objects/ab/x/.envrc");
        project.repository(".git/objects/ab/y/.git");
        project.repository(".git/refs/z");
        link(project, "../.git/objects/ab", "src/sub");
    });
    assert_eq!(changes, ["created .git/objects/ab/x/.envrc", "created .git/objects/ab/y/.git", "created .git/refs/z"]);
}

#[test]
fn replaced_link_in_the_middle_of_a_chain_is_reported() {
    for name in [".envrc", "src/.envrc", ".git/hooks/pre-commit", "src/.vscode/tasks.json", "src/.cargo"] {
        let project = Project::new();
        for target in ["targets/good", "targets/evil"] {
            file(&project, target);
        }
        link(&project, "targets/good", "b");
        link(&project, "b", "a");
        link(&project, project.path("a").to_str().unwrap(), name);
        tick();
        let changes = project.after(|project| relink(project, "targets/evil", "b"));
        assert_eq!(changes, ["replaced b"], "{name}");
        let changes = project.after(|project| fs::write(project.path("targets/evil"), "worse").unwrap());
        assert_eq!(changes, ["changed targets/evil"], "{name}");
    }
}

#[test]
fn target_of_a_link_in_a_listed_directory_or_in_hooks_of_a_nested_repository_is_compared() {
    let project = Project::new();
    project.repository("src/.git");
    file(&project, "tools/x/deep/y");
    for (target, name) in [
        ("../../../tools/x", "src/.vscode/deep"),
        ("../../../tools/z", "src/.git/hooks"),
        ("../tools/hook", "tools/z/pre-commit"),
        ("../../tools/w", ".vscode/deep"),
    ] {
        link(&project, target, name);
    }
    for name in ["tools/hook", "tools/w"] {
        file(&project, name);
    }
    relink(&project, "../../tools/x", "src/.vscode/deep");
    relink(&project, "../../tools/z", "src/.git/hooks");
    relink(&project, "../hook", "tools/z/pre-commit");
    relink(&project, "../tools/w", ".vscode/deep");
    tick();
    let changes = project.after(|project| {
        fs::write(project.path("tools/x/deep/y"), "evil").unwrap();
        file(project, "tools/x/new");
        fs::write(project.path("tools/hook"), "evil").unwrap();
        fs::write(project.path("tools/w"), "evil").unwrap();
        file(project, "tools/z/post-commit");
    });
    let expected =
        ["changed tools/hook", "changed tools/w", "changed tools/x/deep/y", "created tools/x/new", "created tools/z/post-commit"];
    assert_eq!(changes, expected);
}

#[test]
fn links_in_place_of_settings_and_of_what_they_name_are_followed_and_compared() {
    let project = Project::new();
    project.repository("src/.git");
    fs::remove_file(project.path("src/.git/config")).unwrap();
    link(&project, "../../shared", "src/.git/config");
    fs::write(project.path("shared"), "[core]\nhooksPath = tools\n").unwrap();
    for target in ["src/good/x", "src/evil/x"] {
        file(&project, target);
    }
    link(&project, "good", "src/tools");
    tick();
    assert_eq!(project.after(|project| fs::write(project.path("src/good/x"), "evil").unwrap()), ["changed src/good/x"]);
    assert_eq!(project.after(|project| relink(project, "evil", "src/tools")), ["replaced src/tools"]);
    let changes = project.after(|project| fs::write(project.path("shared"), "[core]\n").unwrap());
    assert_eq!(changes, ["changed shared"]);
}

#[test]
fn git_directory_that_a_link_named_git_leads_to_is_compared_by_its_settings() {
    let project = Project::new();
    project.repository("elsewhere");
    link(&project, "elsewhere", "middle");
    link(&project, "../middle", "src/.git");
    tick();
    let changes = project.after(|project| {
        file(project, "elsewhere/objects/ab/cdef");
        file(project, "elsewhere/index");
        file(project, "elsewhere/hooks/pre-commit");
    });
    assert_eq!(changes, ["created elsewhere/hooks"]);
    let changes = project.after(|project| relink(project, ".git", "middle"));
    assert_eq!(changes, ["replaced middle"]);
}

#[test]
fn many_links_or_long_chains_are_incomplete() {
    let project = Project::new();
    for number in 0..4100 {
        link(&project, "../x", &format!(".vscode/{number}"));
    }
    let gaps = |project: &Project| project.watch().last.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>();
    assert_eq!(gaps(&project), [Cause::TooManyLinks]);
    // Few links, each of which leads through a chain of links with long targets.
    let project = Project::new();
    let long = "src/../".repeat(580);
    file(&project, "0");
    for number in 1..40 {
        link(&project, &format!("{long}{}", number - 1), &number.to_string());
    }
    assert_eq!(gaps(&project), []);
    for number in 0..10 {
        link(&project, "../39", &format!(".vscode/{number}"));
    }
    assert_eq!(gaps(&project), [Cause::TooManyLinks]);
}

#[test]
fn many_git_directories_are_incomplete_and_leave_the_known_ones_compared() {
    let project = Project::new();
    project.repository("src/deep/.git");
    let mut watch = project.watch_with(Limits { repositories: 10, entries: 100, ..Limits::TREE });
    assert!(watch.last.gaps.is_empty());
    for number in 0..20 {
        project.repository(&format!("src/{number}"));
    }
    fs::write(project.path("src/deep/.git/config"), "[core]\nfsmonitor = worse\n").unwrap();
    file(&project, "src/deep/.git/hooks/pre-commit");
    let report = watch.full_report(&Interrupt::default());
    for name in ["config", "hooks"] {
        let path = project.path("src/deep/.git").join(name);
        assert!(report.changes.iter().any(|change| change.path == path), "{name}: {report:?}");
    }
    assert!(report.changes.iter().all(|change| change.how != How::Removed), "{report:?}");
    assert_eq!(report.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::TooManyRepositories]);
    let [.., warning] = &report.warnings()[..] else { panic!("{report:?}") };
    assert!(warning.contains("more git directories than are compared"), "{warning}");
}
