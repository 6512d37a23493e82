//! Tests of the comparison of listed names in subdirectories.

use super::{
    super::super::{list::LIST, read},
    *,
};

#[test]
fn every_path_of_the_list_is_reported_where_it_is_created() {
    let project = Project::new();
    fs::remove_file(project.path("CLAUDE.md")).unwrap();
    fs::create_dir_all(project.path("sub/.git")).unwrap();
    let suffixes = LIST.suffixes.iter().map(|end| format!("mine{end}"));
    let in_workspace: Vec<String> = LIST.workspace.iter().map(ToString::to_string).chain(suffixes).collect();
    let places = ["", "sub/"].into_iter().flat_map(|place| in_workspace.iter().map(move |name| format!("{place}{name}")));
    let is_made = |name: &&&str| !git::is_git_parent(Path::new(name)) && !project.path(&format!(".git/{name}")).exists();
    let of_git = LIST.git.iter().chain(&LIST.git_reported).filter(is_made).map(|name| format!(".git/{name}"));
    let names: Vec<String> = places.chain(of_git).collect();
    // One path at a time, so that no path is reported because of another one.
    let mut watch = project.watch();
    for name in &names {
        let path = project.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let created: Vec<(PathBuf, How)> = watch.changes().into_iter().map(|change| (change.path, change.how)).collect();
        assert_eq!(created, [(path.clone(), How::Created)]);
        fs::remove_file(&path).unwrap();
        let removed: Vec<(PathBuf, How)> = watch.changes().into_iter().map(|change| (change.path, change.how)).collect();
        assert_eq!(removed, [(path, How::Removed)]);
    }
}

#[test]
fn watch_reports_create_change_replace_and_remove_of_listed_names_in_subdirectories() {
    let project = Project::new();
    for name in ["a/b", "a/.vscode", "c/.cargo", "d"] {
        fs::create_dir_all(project.path(name)).unwrap();
    }
    for name in ["a/b/.envrc", "a/b/.npmrc", "a/b/AGENTS.md", "a/.vscode/tasks.json", "c/.cargo/config.toml", "d/.envrc"] {
        fs::write(project.path(name), "mine").unwrap();
    }
    let changes = project.after(|project| {
        fs::write(project.path("a/b/.envrc"), "evil").unwrap();
        fs::write(project.path("a/b/new"), "evil").unwrap();
        fs::rename(project.path("a/b/new"), project.path("a/b/.npmrc")).unwrap();
        fs::remove_file(project.path("a/b/AGENTS.md")).unwrap();
        fs::write(project.path("a/.vscode/tasks.json"), "evil").unwrap();
        fs::write(project.path("c/.cargo/config.toml"), "evil").unwrap();
        fs::write(project.path("c/CLAUDE.md"), "evil").unwrap();
        fs::create_dir_all(project.path("c/new/.claude/hooks")).unwrap();
        fs::rename(project.path("d"), project.path("e")).unwrap();
    });
    let expected = [
        "changed a/.vscode/tasks.json",
        "changed a/b/.envrc",
        "replaced a/b/.npmrc",
        "removed a/b/AGENTS.md",
        "changed c/.cargo/config.toml",
        "created c/CLAUDE.md",
        "created c/new/.claude",
        "removed d/.envrc",
        "created e/.envrc",
    ];
    assert_eq!(changes, expected);
}

#[test]
fn watch_reports_a_change_in_a_subdirectory_within_one_tick_of_the_clock() {
    let project = Project::new();
    fs::write(project.path("src/.envrc"), "mine").unwrap();
    for round in 0..50 {
        let changes = project.after(|project| fs::write(project.path("src/.envrc"), format!("{round:04}")).unwrap());
        assert_eq!(changes, ["changed src/.envrc"], "{round}");
    }
}

#[test]
fn watch_of_objects_of_any_type_at_listed_names_in_subdirectories_follows_nothing() {
    let project = Project::new();
    fs::create_dir(project.path("tools")).unwrap();
    fs::write(project.path("tools/config.toml"), "mine").unwrap();
    fs::write(project.path("tools/x"), "mine").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let changes = project.after(|project| {
        symlink("../tools", project.path("src/.cargo")).unwrap();
        symlink("../tools/x", project.path("src/.envrc")).unwrap();
        symlink("/proc/kmsg", project.path("src/.npmrc")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, project.path("src/AGENTS.md"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    });
    assert_eq!(changes, ["created src/.cargo", "created src/.envrc", "created src/.npmrc", "created src/AGENTS.md"]);
    // The target of such a link is compared if the target lies in the grant.
    let changes = project.after(|project| {
        fs::write(project.path("tools/x"), "evil").unwrap();
        fs::write(project.path("tools/config.toml"), "evil").unwrap();
    });
    assert_eq!(changes, ["changed tools/config.toml", "changed tools/x"]);
}

#[test]
fn watch_reports_a_protected_file_that_is_written_through_a_hard_link() {
    let project = Project::new();
    fs::write(project.path("src/.envrc"), "mine").unwrap();
    for name in ["CLAUDE.md", "src/.envrc", ".git/config"] {
        fs::hard_link(project.path(name), project.path("other")).unwrap();
        let changes = project.after(|project| fs::write(project.path("other"), "evil").unwrap());
        assert_eq!(changes, [format!("changed {name}")]);
        fs::remove_file(project.path("other")).unwrap();
    }
    let changes = project.after(|project| {
        fs::hard_link(project.path("src/.envrc"), project.path("other")).unwrap();
        fs::write(project.path("other"), "worse").unwrap();
        fs::remove_file(project.path("other")).unwrap();
    });
    assert_eq!(changes, ["changed src/.envrc"]);
}

#[test]
fn watch_beyond_the_limit_of_listed_names_keeps_known_names_and_names_what_it_left_out() {
    let project = Project::new();
    fs::create_dir_all(project.path("z/z/z")).unwrap();
    for name in ["z/z/z/.envrc", "z/z/z/.npmrc"] {
        fs::write(project.path(name), "mine").unwrap();
    }
    let mut watch = project.watch_with(Limits { listed: Some(10), ..Limits::TREE });
    assert!(watch.last.gaps.is_empty());
    for number in 0..20 {
        fs::create_dir(project.path(&format!("d{number}"))).unwrap();
        fs::write(project.path(&format!("d{number}/.envrc")), "evil").unwrap();
    }
    fs::write(project.path("z/z/z/.envrc"), "evil").unwrap();
    let report = watch.full_report(&Interrupt::default());
    let of = |how| report.changes.iter().filter(|change| change.how == how).map(|change| change.path.clone()).collect::<Vec<_>>();
    assert_eq!(of(How::Created).len(), 10);
    assert_eq!((of(How::Changed), of(How::Removed)), (vec![project.path("z/z/z/.envrc")], Vec::new()));
    assert_eq!(report.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::TooManyListed]);
    // A line for each change, each in another directory, and one for what was left out.
    assert_eq!(report.warnings().len(), 12, "{:?}", report.warnings());
}

#[test]
fn change_outside_of_subdirectories_and_a_rare_kind_are_reported_before_many_of_another_kind() {
    let project = Project::new();
    let mut watch = project.watch();
    fs::create_dir(project.path("a")).unwrap();
    for number in 0..MAX_REPORTED + 20 {
        fs::write(project.path(&format!("a/{number}.code-workspace")), "").unwrap();
    }
    fs::write(project.path("AGENTS.md"), "evil").unwrap();
    fs::create_dir(project.path("z")).unwrap();
    fs::write(project.path("z/.envrc"), "evil").unwrap();
    let report = watch.report();
    assert_eq!((report.changes.len(), report.omitted.total()), (MAX_REPORTED, 22));
    for name in ["AGENTS.md", "z/.envrc"] {
        assert!(report.changes.iter().any(|change| change.path == project.path(name) && change.digest.is_some()), "{name}");
    }
    assert!(report.warnings().len() <= 4, "{:?}", report.warnings());
    // A later report that is added stays before the many other changes.
    fs::write(project.path("CLAUDE.md"), "evil").unwrap();
    let mut pending = report;
    pending.add(watch.report());
    assert!(pending.changes.iter().any(|change| change.path == project.path("CLAUDE.md")));
    assert_eq!((pending.changes.len(), pending.omitted.total()), (MAX_REPORTED, 23));
}

#[test]
fn listed_name_of_a_repository_counts_in_a_subdirectory_with_git_directory_only() {
    let project = Project::new();
    fs::create_dir(project.path("plain")).unwrap();
    project.repository("sub/.git");
    let changes = project.after(|project| {
        for name in ["plain/lefthook.yml", "sub/lefthook.yml", "lefthook.yml"] {
            fs::write(project.path(name), "").unwrap();
        }
    });
    assert_eq!(changes, ["created lefthook.yml", "created sub/lefthook.yml"]);
    // The name counts from the time on at which the directory becomes a repository.
    let changes = project.after(|project| project.repository("plain/.git"));
    assert_eq!(changes, ["created plain/.git", "created plain/lefthook.yml"]);
}

#[test]
fn change_of_a_listed_name_in_a_subdirectory_needs_no_restart() {
    let project = Project::new();
    let mut watch = project.watch();
    fs::write(project.path("src/.envrc"), "evil").unwrap();
    let changes = watch.changes();
    assert_eq!(changes.len(), 1);
    assert!(!watch.needs_restart(&changes, &Interrupt::default()));
}

#[test]
fn listed_name_whose_path_is_too_long_is_named_as_not_compared() {
    let project = Project::new();
    let mut watch = project.watch();
    let mut at = read::open(rustix::fs::CWD, project.0.path(), rustix::fs::OFlags::PATH).unwrap();
    let mut left = 4090 - project.0.path().as_os_str().len();
    while left > 1 {
        let name = "n".repeat((left - 1).min(250));
        rustix::fs::mkdirat(&at, &name, 0o755.into()).unwrap();
        at = read::open(&at, Path::new(&name), rustix::fs::OFlags::PATH).unwrap();
        left -= name.len() + 1;
    }
    rustix::fs::mkdirat(&at, "CLAUDE.md", 0o755.into()).unwrap();
    assert!(
        watch
            .full_report(&Interrupt::default())
            .gaps
            .iter()
            .any(|gap| gap.cause == Cause::Unreadable && gap.path.ends_with("CLAUDE.md"))
    );
}

#[test]
fn many_entries_of_new_listed_directories_do_not_displace_known_names() {
    // Known names in subdirectories are dropped only in favour of names in the root, and are then not reported as removed.
    for (directory, is_displaced) in [("a/.vscode", false), (".vscode", true)] {
        let project = Project::new();
        fs::create_dir_all(project.path("z/z")).unwrap();
        for name in ["z/z/.envrc", "z/z/.npmrc"] {
            fs::write(project.path(name), "mine").unwrap();
        }
        let mut watch = project.watch_with(Limits { entries: 100, ..Limits::TREE });
        fs::create_dir_all(project.path(directory)).unwrap();
        for number in 0..200 {
            fs::write(project.path(&format!("{directory}/{number}")), "").unwrap();
        }
        fs::write(project.path("z/z/.envrc"), "evil").unwrap();
        let report = watch.full_report(&Interrupt::default());
        let changes: Vec<(PathBuf, How)> = report.changes.iter().map(|change| (change.path.clone(), change.how)).collect();
        let mut expected = vec![(project.path(directory), How::Created)];
        expected.extend((!is_displaced).then(|| (project.path("z/z/.envrc"), How::Changed)));
        assert_eq!(changes, expected);
        assert_eq!(report.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::TooManyEntries]);
    }
}
