//! Tests of paths that a comparison, or the plan of read-only paths, cannot read.

use super::*;
use rustix::fs::{CWD, FileType, mknodat};
use std::os::unix::fs::PermissionsExt as _;

fn gaps(report: &Report) -> Vec<(PathBuf, Cause)> {
    report.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect()
}

fn report(watch: &mut Watch) -> Report {
    watch.full_report(&Interrupt::default())
}

/// Replaces a file by an object that cannot be read.
fn unreadable(path: &Path, kind: &str) {
    fs::remove_file(path).ok();
    match kind {
        "directory" => fs::create_dir(path).unwrap(),
        "fifo" => mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap(),
        "dangling link" => symlink("nowhere", path).unwrap(),
        "large" => fs::File::create(path).unwrap().set_len((32 << 20) + 1).unwrap(),
        "closed" => {
            fs::write(path, "..").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }
        content => fs::write(path, content).unwrap(),
    }
}

/// The kinds of [`unreadable`] files. Root can read every file.
fn kinds() -> Vec<&'static str> {
    let mut kinds = vec!["directory", "fifo", "dangling link", "large"];
    kinds.extend((!rustix::process::geteuid().is_root()).then_some("closed"));
    kinds
}

#[test]
fn commondir_that_cannot_be_read_or_names_no_directory_is_a_gap() {
    for of in [".git", "src/.git"] {
        for kind in kinds().into_iter().chain(["", "\n", "nowhere\n", "HEAD", "a\0b", &"x/".repeat(3000)]) {
            let project = Project::new();
            project.repository("src/.git");
            let file = project.path(of).join("commondir");
            unreadable(&file, kind);
            let mut watch = project.watch();
            let report = report(&mut watch);
            assert!(gaps(&report).contains(&(file, Cause::UnreadableCommonDir)), "{of} {kind:.20}: {report:?}");
            assert!(report.warnings().iter().any(|line| line.contains("commondir")), "{:?}", report.warnings());
        }
    }
}

#[test]
fn commondir_that_names_a_directory_is_not_a_gap_and_that_directory_is_compared() {
    for (content, link) in [("../../shared", None), ("../../shared\r\n\n", None), ("../../shared\n", Some("elsewhere"))] {
        let project = Project::new();
        project.repository("src/.git");
        // Without `HEAD`, it is not a git directory itself.
        fs::create_dir_all(project.path("shared/hooks")).unwrap();
        fs::create_dir_all(project.path("src/tools")).unwrap();
        fs::write(project.path("shared/config"), "[core]\nhooksPath = tools\n").unwrap();
        let file = project.path("src/.git/commondir");
        fs::write(link.map_or(file.clone(), |link| project.path("src/.git").join(link)), content).unwrap();
        if let Some(link) = link {
            symlink(link, file).unwrap();
        }
        let mut watch = project.watch();
        fs::write(project.path("shared/config"), "[core]\nhooksPath = tools\nfsmonitor = evil\n").unwrap();
        fs::write(project.path("shared/hooks/pre-commit"), "evil").unwrap();
        fs::write(project.path("src/tools/pre-commit"), "evil").unwrap();
        let report = report(&mut watch);
        assert_eq!(gaps(&report), [], "{content:?}");
        let changed: Vec<&Path> = report.changes.iter().map(|change| &*change.path).collect();
        let expected = ["shared/config", "shared/hooks/pre-commit", "src/tools/pre-commit"].map(|name| project.path(name));
        assert_eq!(changed, expected, "{content:?}");
    }
}

#[test]
fn git_file_of_a_worktree_that_cannot_be_read_is_a_gap() {
    for kind in kinds().into_iter().filter(|kind| !matches!(*kind, "directory" | "dangling link")) {
        let project = Project::new();
        fs::remove_dir_all(project.path(".git")).unwrap();
        unreadable(&project.path(".git"), kind);
        assert!(gaps(&report(&mut project.watch())).contains(&(project.path(".git"), Cause::UnreadableFile)), "{kind}");
    }
}

#[test]
fn index_that_cannot_be_read_is_a_gap_before_and_after_a_command() {
    for kind in kinds().into_iter().chain(["", "DIRC\0\0\0\x02\0\0\0\x01"]) {
        let project = Project::new();
        let index = project.path(".git/index");
        let expected = [(index.clone(), Cause::UnreadableIndex)];
        let good = || {
            fs::write(project.path("new"), b"DIRC\0\0\0\x02\0\0\0\0").unwrap();
            if index.is_dir() {
                fs::remove_dir(&index).unwrap();
            }
            fs::rename(project.path("new"), &index).unwrap();
        };
        unreadable(&index, kind);
        let mut watch = project.watch();
        good();
        assert_eq!(gaps(&report(&mut watch)), expected, "{kind:.20} before");
        assert_eq!(gaps(&report(&mut watch)), [], "{kind:.20}");
        good();
        assert_eq!(gaps(&report(&mut watch)), [], "{kind:.20}");
        unreadable(&index, kind);
        let report = report(&mut watch);
        assert_eq!(gaps(&report), expected, "{kind:.20} after");
        assert!(report.warnings()[0].contains(".git/index") && report.warnings()[0].contains("git status"));
    }
}

#[test]
fn protected_directory_with_more_links_than_the_plan_follows_is_a_gap() {
    let project = Project::new();
    let hooks = project.path(".git/hooks");
    for number in 0..256 {
        symlink("../../src/x", hooks.join(number.to_string())).unwrap();
    }
    assert_eq!(gaps(&report(&mut project.watch())), []);
    symlink("../../src/x", hooks.join("256")).unwrap();
    let mut watch = project.watch();
    for _ in 0..2 {
        assert_eq!(gaps(&report(&mut watch)), [(hooks.clone(), Cause::TooManyLinks)]);
    }
}

#[test]
fn protected_path_that_the_plan_cannot_look_up_is_a_gap() {
    let project = Project::new();
    // The name is longer than the kernel accepts, so that a look-up fails, but not because the path does not exist.
    let protect = vec![PathBuf::from("src").join("n".repeat(300))];
    let place = GrantedTree::from_grant(&Grant { protect, ..Grant::new(project.0.path(), Access::ReadWrite) });
    let plan = plan::read_only(&[place], &Interrupt::default());
    let gaps: Vec<_> = plan.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect();
    assert_eq!(gaps, [(project.path("src"), Cause::Unreadable)]);
}

#[test]
fn replaced_link_in_the_middle_of_a_chain_needs_a_restart_if_a_protected_path_is_at_its_end() {
    for (name, needs) in [(".envrc", true), (".git/hooks/pre-commit", true), (".vscode", true), ("src/.envrc", false)] {
        let project = Project::new();
        for target in ["targets/good", "targets/evil"] {
            fs::create_dir_all(project.path(target)).unwrap();
        }
        symlink("targets/good", project.path("b")).unwrap();
        symlink("b", project.path("a")).unwrap();
        symlink(project.path("a"), project.path(name)).unwrap();
        // Lets more than one clock tick pass, so that the time stamps show that the targets are older than the observation.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let mut watch = project.watch();
        fs::remove_file(project.path("b")).unwrap();
        symlink("targets/evil", project.path("b")).unwrap();
        let changes = watch.changes();
        assert_eq!(changes.iter().map(|change| &*change.path).collect::<Vec<_>>(), [project.path("b")], "{name}");
        assert_eq!(watch.needs_restart(&changes, &Interrupt::default()), needs, "{name}");
    }
}
