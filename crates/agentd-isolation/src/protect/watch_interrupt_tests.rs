//! Tests of comparisons that a signal or a time limit ends.

use super::*;
use std::collections::BTreeMap;

/// Returns an interrupt that ends comparisons immediately.
fn asked() -> Interrupt {
    let interrupt = Interrupt::default();
    interrupt.ask();
    interrupt
}

fn causes(report: &Report) -> Vec<Cause> {
    report.gaps.iter().map(|gap| gap.cause).collect()
}

fn changes(report: &Report) -> Vec<(PathBuf, How)> {
    report.changes.iter().map(|change| (change.path.clone(), change.how)).collect()
}

/// A project with a path of each kind that a comparison finds.
fn project_of_all_kinds() -> Project {
    let project = Project::new();
    project.repository("src/.git");
    project.repository("src/bare");
    fs::write(project.path("src/.git/config"), "[core]\nhooksPath = tools\n").unwrap();
    fs::write(project.path("src/bare/commondir"), "../bare\n").unwrap();
    fs::create_dir_all(project.path("src/tools")).unwrap();
    fs::create_dir_all(project.path("src/deep/er")).unwrap();
    for name in ["src/tools/x", "src/deep/.envrc", "src/deep/er/AGENTS.md", "good", "evil"] {
        fs::write(project.path(name), "mine").unwrap();
    }
    symlink("good", project.path("middle")).unwrap();
    symlink("middle", project.path(".envrc")).unwrap();
    // Lets more than one clock tick pass, so that the time stamps show that all paths are older than the observation.
    std::thread::sleep(std::time::Duration::from_millis(30));
    project
}

/// Changes a path of each kind. Returns the changes.
fn change_all(project: &Project) -> BTreeMap<PathBuf, How> {
    fs::write(project.path("CLAUDE.md"), "evil").unwrap();
    fs::remove_file(project.path(".git/config")).unwrap();
    fs::write(project.path(".git/hooks/pre-commit"), "evil").unwrap();
    fs::write(project.path("src/tools/x"), "evil").unwrap();
    fs::write(project.path("src/.git/config"), "[core]\nhooksPath = tools\nfsmonitor = evil\n").unwrap();
    fs::remove_file(project.path("src/bare/HEAD")).unwrap();
    fs::remove_file(project.path("src/deep/.envrc")).unwrap();
    fs::write(project.path("src/deep/er/AGENTS.md"), "evil").unwrap();
    fs::remove_file(project.path("middle")).unwrap();
    symlink("evil", project.path("middle")).unwrap();
    let changes = [
        ("CLAUDE.md", How::Changed),
        (".git/config", How::Removed),
        (".git/hooks/pre-commit", How::Created),
        ("src/tools/x", How::Changed),
        ("src/.git/config", How::Changed),
        ("src/bare", How::Removed),
        ("src/deep/.envrc", How::Removed),
        ("src/deep/er/AGENTS.md", How::Changed),
        ("middle", How::Replaced),
    ];
    changes.map(|(name, how)| (project.path(name), how)).into()
}

#[test]
fn comparison_interrupted_anywhere_is_reported_and_next_one_reports_rest() {
    let mut interrupted = 0;
    for looks in (0..).step_by(7) {
        let project = project_of_all_kinds();
        let mut watch = project.watch();
        let expected = change_all(&project);
        let first = watch.full_report(&Interrupt::after_looks(looks));
        let next = watch.full_report(&Interrupt::default());
        let mut found = changes(&first);
        found.extend(changes(&next));
        let all: BTreeMap<PathBuf, How> = found.iter().cloned().collect();
        assert_eq!((all, found.len()), (expected.clone(), expected.len()), "after {looks} looks: {first:?} {next:?}");
        assert!(next.gaps.is_empty(), "after {looks} looks: {next:?}");
        if first.gaps.is_empty() {
            assert_eq!(changes(&first).len(), expected.len());
            break;
        }
        interrupted += 1;
        assert_eq!(causes(&first), [Cause::Interrupted], "after {looks} looks");
        assert!(first.gaps.iter().all(|gap| gap.path.starts_with(project.0.path())), "{first:?}");
    }
    // The comparison looks at the interrupt many times, in each of its parts.
    assert!(interrupted > 10, "{interrupted}");
}

#[test]
fn warning_of_an_interrupted_comparison_names_the_cause_and_the_remedy() {
    let project = Project::new();
    let [warning] = &project.watch().full_report(&asked()).warnings()[..] else { panic!("more than one warning") };
    for text in ["comparison of protected paths incomplete", "signal", "--timeout", "review"] {
        assert!(warning.contains(text), "{warning}");
    }
}

#[test]
fn first_observation_that_is_interrupted_is_reported_once_and_old_paths_as_not_compared_before() {
    let project = project_of_all_kinds();
    let protect = plan::names(project.0.path()).unwrap();
    let grants = [Grant { protect, ..Grant::new(project.0.path(), Access::ReadWrite) }];
    let mut watch = Watch::begin(&grants, &asked());
    fs::write(project.path("AGENTS.md"), "evil").unwrap();
    let report = watch.full_report(&Interrupt::default());
    assert_eq!(causes(&report), [Cause::Interrupted]);
    for (name, how) in [("AGENTS.md", How::Created), ("CLAUDE.md", How::NotCompared), ("src/deep/.envrc", How::NotCompared)] {
        assert!(changes(&report).contains(&(project.path(name), how)), "{name}: {report:?}");
    }
    assert!(watch.full_report(&Interrupt::default()).is_empty());
}

#[test]
fn state_of_a_file_whose_digest_was_interrupted_is_kept() {
    // On tmpfs, each file is compared by its content.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let file = root.path().join("CLAUDE.md");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    let protect = plan::names(root.path()).unwrap();
    let mut watch = Watch::begin(&[Grant { protect, ..Grant::new(root.path(), Access::ReadWrite) }], &Interrupt::default());
    let before = watch.last.states.seen[&file].clone();
    let mut interrupted = 0;
    for looks in 0..200 {
        let report = watch.full_report(&Interrupt::after_looks(looks));
        assert!(report.changes.is_empty(), "after {looks} looks: {report:?}");
        assert_eq!(watch.last.states.seen[&file], before, "after {looks} looks");
        interrupted += usize::from(!report.gaps.is_empty());
    }
    assert!((50..200).contains(&interrupted), "{interrupted}");
}

#[test]
fn sandbox_whose_comparison_is_interrupted_needs_a_restart_if_a_path_is_new() {
    let project = Project::new();
    let mut watch = project.watch();
    fs::write(project.path("src/.envrc"), "evil").unwrap();
    let changes = watch.changes();
    assert!(!changes.is_empty() && !watch.needs_restart(&changes, &Interrupt::default()));
    assert!(watch.needs_restart(&changes, &asked()) && !watch.needs_restart(&[], &asked()));
}
