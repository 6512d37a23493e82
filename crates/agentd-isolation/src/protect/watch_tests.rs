//! Tests of the comparison of protected paths.

use super::{
    super::{list::LIST, read, release::release},
    *,
};
use agentd_core::Access;
use std::{fs, os::unix::fs::symlink};

struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for part in [".git/objects", ".git/refs", ".git/hooks", "src"] {
            fs::create_dir_all(root.path().join(part)).unwrap();
        }
        fs::write(root.path().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(root.path().join(".git/config"), "[core]\n").unwrap();
        fs::write(root.path().join("CLAUDE.md"), "mine").unwrap();
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn watch(&self) -> Watch {
        let protect = plan::names(self.0.path()).unwrap();
        Watch::begin(&[Grant { protect, ..Grant::new(self.0.path(), Access::ReadWrite) }])
    }

    fn watch_within(&self, directories: usize) -> Watch {
        self.watch_with(Limits { directories, ..Limits::TREE })
    }

    fn watch_with(&self, limits: Limits) -> Watch {
        let protect = plan::names(self.0.path()).unwrap();
        let grants = [Grant { protect, ..Grant::new(self.0.path(), Access::ReadWrite) }];
        Watch::begin_within(&grants, limits)
    }

    /// Returns the differences as text after `steps` have run on the host.
    fn after(&self, steps: impl FnOnce(&Self)) -> Vec<String> {
        let mut watch = self.watch();
        steps(self);
        let changes = watch.changes();
        assert_eq!(watch.changes(), [], "each difference is reported once");
        let name = |change: &Change| change.path.strip_prefix(self.0.path()).unwrap().display().to_string();
        changes.iter().map(|change| format!("{} {}", change.how, name(change))).collect()
    }

    fn repository(&self, name: &str) {
        for part in ["objects", "refs"] {
            fs::create_dir_all(self.path(name).join(part)).unwrap();
        }
        fs::write(self.path(name).join("HEAD"), "").unwrap();
        fs::write(self.path(name).join("config"), "[core]\nfsmonitor = evil\n").unwrap();
    }
}

#[test]
fn watch_without_changes_reports_nothing() {
    let project = Project::new();
    assert_eq!(project.after(|_| {}), Vec::<String>::new());
    // Steps that ordinary commands perform often.
    let work = |project: &Project| {
        fs::write(project.path("src/main.rs"), "").unwrap();
        fs::write(project.path(".git/index"), "").unwrap();
        fs::write(project.path(".git/HEAD"), "ref: refs/heads/other\n").unwrap();
        fs::create_dir(project.path(".git/logs")).unwrap();
    };
    assert_eq!(project.after(work), Vec::<String>::new());
}

#[test]
fn watch_after_create_change_replace_and_remove_reports_each() {
    let project = Project::new();
    fs::write(project.path(".envrc"), "a").unwrap();
    let changes = project.after(|project| {
        fs::write(project.path("AGENTS.md"), "evil").unwrap();
        fs::write(project.path(".git/hooks/pre-commit"), "evil").unwrap();
        fs::write(project.path("CLAUDE.md"), "evil").unwrap();
        fs::write(project.path("new"), "[core]\n").unwrap();
        fs::rename(project.path("new"), project.path(".git/config")).unwrap();
        fs::remove_file(project.path(".envrc")).unwrap();
        fs::create_dir_all(project.path(".vscode/deep")).unwrap();
        fs::write(project.path(".vscode/tasks.json"), "evil").unwrap();
    });
    let expected = [
        "removed .envrc",
        "replaced .git/config",
        "created .git/hooks/pre-commit",
        "created .vscode",
        "created AGENTS.md",
        "changed CLAUDE.md",
    ];
    assert_eq!(changes, expected);
}

#[test]
fn watch_reports_a_change_within_one_tick_of_the_clock() {
    let project = Project::new();
    for round in 0..50 {
        let changes = project.after(|project| fs::write(project.path("CLAUDE.md"), format!("{round:04}")).unwrap());
        assert_eq!(changes, ["changed CLAUDE.md"], "{round}");
    }
}

#[test]
fn watch_reports_repositories_created_anywhere() {
    let project = Project::new();
    let changes = project.after(|project| {
        fs::remove_file(project.path(".git/HEAD")).unwrap();
        project.repository("");
        project.repository("docs/bare");
        project.repository("sub/.git");
        fs::create_dir(project.path("linked")).unwrap();
        fs::write(project.path("linked/.git"), "gitdir: ../docs/bare").unwrap();
    });
    assert_eq!(changes, ["created ", "removed .git", "created docs/bare", "created linked/.git", "created sub/.git"]);
}

#[test]
fn watch_reports_settings_of_a_nested_repository() {
    let project = Project::new();
    project.repository("sub/.git");
    let changes = project.after(|project| {
        fs::write(project.path("sub/.git/config"), "[core]\nfsmonitor = worse\n").unwrap();
        fs::write(project.path("sub/.git/HEAD"), "ref: refs/heads/x").unwrap();
    });
    assert_eq!(changes, ["changed sub/.git/config"]);
}

#[test]
fn watch_reports_a_planned_rebase() {
    let project = Project::new();
    let changes = project.after(|project| {
        fs::create_dir(project.path(".git/rebase-merge")).unwrap();
        fs::write(project.path(".git/rebase-merge/git-rebase-todo"), "exec evil\n").unwrap();
    });
    assert_eq!(changes, ["created .git/rebase-merge/git-rebase-todo"]);
}

#[test]
fn watch_reports_the_target_of_a_hook_that_is_a_link() {
    let project = Project::new();
    fs::create_dir(project.path("scripts")).unwrap();
    fs::write(project.path("scripts/x"), "mine").unwrap();
    symlink("../../scripts/x", project.path(".git/hooks/pre-commit")).unwrap();
    let changes = project.after(|project| fs::write(project.path("scripts/x"), "evil").unwrap());
    assert_eq!(changes, ["changed scripts/x"]);
}

#[test]
fn watch_reports_a_new_link_and_not_its_unchanged_target() {
    let project = Project::new();
    fs::create_dir(project.path("scripts")).unwrap();
    fs::write(project.path("scripts/x"), "mine").unwrap();
    // Lets more than one clock tick pass, so that the time stamps show that the target is older than the observation.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let link = |project: &Project| symlink("scripts/x", project.path(".envrc")).unwrap();
    assert_eq!(project.after(link), ["created .envrc"]);
    fs::remove_file(project.path(".envrc")).unwrap();
    let write_and_link = |project: &Project| {
        fs::write(project.path("scripts/x"), "evil").unwrap();
        link(project);
    };
    assert_eq!(project.after(write_and_link), ["created .envrc", "created scripts/x"]);
}

#[test]
fn watch_reports_a_replaced_read_only_grant_inside_a_writable_one() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "mine").unwrap();
    let grant = |path: &Path, access| Grant::new(path, access);
    let mut watch = Watch::begin(&[grant(root.path(), Access::ReadWrite), grant(&file, Access::ReadOnly)]);
    fs::write(root.path().join("new"), "mine").unwrap();
    fs::rename(root.path().join("new"), &file).unwrap();
    let changes = watch.changes();
    assert_eq!(changes.len(), 1);
    assert_eq!((&changes[0].path, changes[0].how), (&file, How::Replaced));
}

#[test]
fn watch_of_fifo_at_protected_path_does_not_block() {
    let project = Project::new();
    let changes = project.after(|project| {
        let place = project.path(".npmrc");
        rustix::fs::mknodat(rustix::fs::CWD, place, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    });
    assert_eq!(changes, ["created .npmrc"]);
}

#[test]
fn watch_of_a_tree_that_is_too_large_reports_no_old_repository_as_new() {
    let project = Project::new();
    for number in 0..20 {
        fs::create_dir(project.path(&format!("d{number}"))).unwrap();
    }
    project.repository("d1/deep/.git");
    // Lets more than one clock tick pass, so that the time stamps show that the repository is older than the observation.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let mut watch = project.watch_within(20);
    assert!(!watch.last.gaps.is_empty());
    for number in 0..20 {
        fs::remove_dir(project.path(&format!("d{number}"))).ok();
    }
    project.repository("new");
    let changes = watch.changes();
    assert!(watch.last.gaps.is_empty(), "{:?}", watch.last.gaps);
    assert_eq!(changes.iter().map(|change| &change.path).collect::<Vec<_>>(), [&project.path("new")]);
}

#[test]
fn watch_with_many_changes_digests_at_most_the_reported_files() {
    let project = Project::new();
    let mut watch = project.watch();
    for number in 0..MOST_REPORTED + 20 {
        fs::write(project.path(&format!(".git/hooks/{number}")), "evil").unwrap();
    }
    let changes = watch.changes();
    assert_eq!(changes.len(), MOST_REPORTED + 20);
    assert_eq!(changes.iter().filter(|change| change.digest.is_some()).count(), MOST_REPORTED);
}

#[test]
fn report_of_incomplete_watch_warns() {
    let project = Project::new();
    let mut watch = project.watch_within(20);
    assert_eq!(watch.report(), Report::default());
    for number in 0..20 {
        fs::create_dir(project.path(&format!("d{number}"))).unwrap();
    }
    let report = watch.report();
    assert!(!report.gaps.is_empty() && report.changes.is_empty());
    let [warning] = &report.warnings()[..] else { panic!("{report:?}") };
    let place = project.path("").display().to_string();
    assert!(warning.contains("not all compared") && warning.contains(&place) && warning.contains("--ro"), "{warning}");
}

#[test]
fn watch_needs_restart_only_if_next_start_protects_changed_paths() {
    let project = Project::new();
    let needs = |steps: &dyn Fn(&Project)| {
        let mut watch = project.watch();
        steps(&project);
        let changes = watch.changes();
        assert!(!changes.is_empty());
        watch.needs_restart(&changes)
    };
    assert!(needs(&|project| fs::write(project.path("AGENTS.md"), "evil").unwrap()));
    assert!(needs(&|project| project.repository(".git/modules/sub")));
    assert!(!needs(&|project| fs::write(project.path("AGENTS.md"), "changed").unwrap()));
    assert!(!needs(&|project| project.repository("sub/.git")));
    assert!(!needs(&|project| {
        fs::create_dir(project.path(".git/rebase-merge")).unwrap();
        fs::write(project.path(".git/rebase-merge/git-rebase-todo"), "exec evil\n").unwrap();
    }));
}

#[test]
fn paths_named_by_settings_of_nested_repository_are_compared() {
    let project = Project::new();
    project.repository("libs/sub/.git");
    fs::write(project.path("libs/sub/.git/config"), "[core]\nhooksPath = tools\n[include]\npath = ../../shared\n").unwrap();
    fs::write(project.path("libs/shared"), "").unwrap();
    fs::create_dir(project.path("libs/sub/tools")).unwrap();
    let changed = project.after(|project| {
        fs::write(project.path("libs/sub/tools/pre-commit"), "evil").unwrap();
        fs::write(project.path("libs/shared"), "[core]\nfsmonitor = evil\n").unwrap();
    });
    assert_eq!(changed, ["changed libs/shared", "created libs/sub/tools/pre-commit"]);
}

#[test]
fn settings_of_many_nested_repositories_are_incomplete() {
    let project = Project::new();
    for number in 0..600 {
        project.repository(&format!("{number}/.git"));
        fs::write(project.path(&format!("{number}/.git/config")), "[include]\npath = config\n").unwrap();
    }
    assert!(!project.watch().last.gaps.is_empty());
}

#[test]
fn released_path_is_writable_and_its_change_is_reported() {
    let project = Project::new();
    fs::create_dir(project.path("tools")).unwrap();
    fs::write(project.path(".git/config"), "[core]\nhooksPath = tools\n").unwrap();
    let protect = plan::names(project.0.path()).unwrap();
    let mut grants = [Grant { protect, ..Grant::new(project.0.path(), Access::ReadWrite) }];
    for (path, released) in [("tools", true), (".git/config", true), (".git/hooks/x", false), ("src", false)] {
        assert_eq!(release(&mut grants, &project.path(path)).is_ok(), released, "{path}");
    }
    let places: Vec<GrantedTree> = grants.iter().map(GrantedTree::from_grant).collect();
    let read_only = plan::read_only(&places);
    assert!(read_only.contains(&project.path(".git/hooks")));
    assert!(!read_only.contains(&project.path("tools")) && !read_only.contains(&project.path(".git/config")), "{read_only:?}");
    let mut watch = Watch::begin(&grants);
    fs::write(project.path("tools/x"), "").unwrap();
    fs::write(project.path(".git/config"), "[core]\n").unwrap();
    let changed: Vec<PathBuf> = watch.changes().into_iter().map(|change| change.path).collect();
    assert_eq!(changed, [project.path(".git/config"), project.path("tools/x")]);
}

#[test]
fn name_with_protected_suffix_is_read_only_and_new_one_is_reported() {
    let project = Project::new();
    fs::write(project.path("mine.code-workspace"), "{}").unwrap();
    let protect = plan::names(project.0.path()).unwrap();
    let places = [GrantedTree::from_grant(&Grant { protect, ..Grant::new(project.0.path(), Access::ReadWrite) })];
    assert!(plan::read_only(&places).contains(&project.path("mine.code-workspace")));
    let changed = project.after(|project| fs::write(project.path("new.code-workspace"), "{}").unwrap());
    assert_eq!(changed, ["created new.code-workspace"]);
}

#[test]
fn every_path_of_the_list_is_reported_where_it_is_created() {
    let project = Project::new();
    fs::remove_file(project.path("CLAUDE.md")).unwrap();
    fs::create_dir_all(project.path("sub/.git")).unwrap();
    let suffixes = LIST.suffixes.iter().map(|end| format!("mine{end}"));
    let in_workspace: Vec<String> = LIST.workspace.iter().map(ToString::to_string).chain(suffixes).collect();
    let places = ["", "sub/"].into_iter().flat_map(|place| in_workspace.iter().map(move |name| format!("{place}{name}")));
    let is_made = |name: &&&str| !git::is_nest(Path::new(name)) && !project.path(&format!(".git/{name}")).exists();
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
    // What such a link leads to is compared if it lies in the grant.
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
    let report = watch.full_report();
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
    for number in 0..MOST_REPORTED + 20 {
        fs::write(project.path(&format!("a/{number}.code-workspace")), "").unwrap();
    }
    fs::write(project.path("AGENTS.md"), "evil").unwrap();
    fs::create_dir(project.path("z")).unwrap();
    fs::write(project.path("z/.envrc"), "evil").unwrap();
    let report = watch.report();
    assert_eq!((report.changes.len(), report.omitted), (MOST_REPORTED, 22));
    for name in ["AGENTS.md", "z/.envrc"] {
        assert!(report.changes.iter().any(|change| change.path == project.path(name) && change.digest.is_some()), "{name}");
    }
    assert!(report.warnings().len() <= 4, "{:?}", report.warnings());
    // A later report that is added keeps its place before the many.
    fs::write(project.path("CLAUDE.md"), "evil").unwrap();
    let mut pending = report;
    pending.add(watch.report());
    assert!(pending.changes.iter().any(|change| change.path == project.path("CLAUDE.md")));
    assert_eq!((pending.changes.len(), pending.omitted), (MOST_REPORTED, 23));
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
    assert!(!watch.needs_restart(&changes));
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
    assert!(watch.full_report().gaps.iter().any(|gap| gap.cause == Cause::Unreadable && gap.path.ends_with("CLAUDE.md")));
}

#[test]
fn many_entries_of_new_listed_directories_do_not_displace_known_names() {
    // Known names in subdirectories give way only to those in the root, and are then not reported as removed.
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
        let report = watch.full_report();
        let changes: Vec<(PathBuf, How)> = report.changes.iter().map(|change| (change.path.clone(), change.how)).collect();
        let mut expected = vec![(project.path(directory), How::Created)];
        expected.extend((!is_displaced).then(|| (project.path("z/z/.envrc"), How::Changed)));
        assert_eq!(changes, expected);
        assert_eq!(report.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::TooManyEntries]);
    }
}
