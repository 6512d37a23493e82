//! Tests of the comparison of protected paths.

use super::{super::release::release, *};
use agentd_core::Access;
use std::{fs, os::unix::fs::symlink};

#[path = "watch_gap_tests.rs"]
mod gaps;
#[path = "watch_interrupt_tests.rs"]
mod interrupts;
#[path = "watch_link_tests.rs"]
mod links;
#[path = "watch_subdirectory_tests.rs"]
mod subdirectories;

impl Watch {
    /// Returns the differences since the last observation.
    fn changes(&mut self) -> Vec<Change> {
        self.compare(&Interrupt::default()).0
    }

    /// Returns a report of the differences that is limited to the size of a message.
    fn report(&mut self) -> Report {
        let mut report = Report::default();
        report.add(self.full_report(&Interrupt::default()));
        report
    }
}

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
        Watch::begin(&[Grant { protect, ..Grant::new(self.0.path(), Access::ReadWrite) }], &Interrupt::default())
    }

    fn watch_within(&self, directories: usize) -> Watch {
        self.watch_with(Limits { directories, ..Limits::TREE })
    }

    fn watch_with(&self, limits: Limits) -> Watch {
        let protect = plan::names(self.0.path()).unwrap();
        let grants = [Grant { protect, ..Grant::new(self.0.path(), Access::ReadWrite) }];
        Watch::begin_within(&grants, limits, &Interrupt::default())
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
    let mut watch = Watch::begin(&[grant(root.path(), Access::ReadWrite), grant(&file, Access::ReadOnly)], &Interrupt::default());
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
fn watch_of_a_tree_that_is_too_large_reports_an_old_repository_as_not_compared_before() {
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
    let changes = changes.into_iter().map(|change| (change.path, change.how));
    // Whether the first search came to this one depends on the order of the directory, which differs between file systems.
    let changes: Vec<(PathBuf, How)> = changes.filter(|(path, _)| *path != project.path(".git")).collect();
    assert_eq!(changes, [(project.path("d1/deep/.git"), How::NotCompared), (project.path("new"), How::Created)]);
}

#[test]
fn path_created_where_a_comparison_could_not_look_is_reported_by_the_next_one_that_can() {
    let project = Project::new();
    let mut watch = project.watch_within(30);
    assert!(watch.last.gaps.is_empty());
    for number in 0..40 {
        fs::create_dir(project.path(&format!("d{number:02}"))).unwrap();
    }
    project.repository("d39/deep/sub/.git");
    fs::write(project.path("d39/deep/.envrc"), "evil").unwrap();
    // Lets more than one clock tick pass, so that the time stamps do not show that both are new.
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert!(watch.changes().is_empty() && !watch.last.gaps.is_empty());
    for number in 0..39 {
        fs::remove_dir(project.path(&format!("d{number:02}"))).unwrap();
    }
    let changes: Vec<(PathBuf, How)> = watch.changes().into_iter().map(|change| (change.path, change.how)).collect();
    let expected = ["d39/deep/.envrc", "d39/deep/sub/.git"].map(|name| (project.path(name), How::NotCompared));
    assert_eq!(changes, expected);
    assert_eq!(watch.changes(), []);
}

#[test]
fn watch_with_many_changes_digests_at_most_the_reported_files() {
    let project = Project::new();
    let mut watch = project.watch();
    for number in 0..MAX_REPORTED + 20 {
        fs::write(project.path(&format!(".git/hooks/{number}")), "evil").unwrap();
    }
    let changes = watch.changes();
    assert_eq!(changes.len(), MAX_REPORTED + 20);
    assert_eq!(changes.iter().filter(|change| change.digest.is_some()).count(), MAX_REPORTED);
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
    assert!(
        warning.contains("comparison of protected paths incomplete") && warning.contains(&place) && warning.contains("--ro"),
        "{warning}"
    );
}

#[test]
fn watch_needs_restart_only_if_next_start_protects_changed_paths() {
    let project = Project::new();
    let needs = |steps: &dyn Fn(&Project)| {
        let mut watch = project.watch();
        steps(&project);
        let changes = watch.changes();
        assert!(!changes.is_empty());
        watch.needs_restart(&changes, &Interrupt::default())
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
    let read_only = plan::read_only(&places, &Interrupt::default()).paths;
    assert!(read_only.contains(&project.path(".git/hooks")));
    assert!(!read_only.contains(&project.path("tools")) && !read_only.contains(&project.path(".git/config")), "{read_only:?}");
    let mut watch = Watch::begin(&grants, &Interrupt::default());
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
    assert!(plan::read_only(&places, &Interrupt::default()).paths.contains(&project.path("mine.code-workspace")));
    let changed = project.after(|project| fs::write(project.path("new.code-workspace"), "{}").unwrap());
    assert_eq!(changed, ["created new.code-workspace"]);
}
