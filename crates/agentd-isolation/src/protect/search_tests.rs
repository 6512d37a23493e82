//! Tests of the search for git directories.

use super::*;
use proptest::prelude::*;
use std::{collections::BTreeSet, fs};

fn all(root: &Path) -> Found {
    search(root, Limits::TREE, &[], &SearchedTree::default(), &Interrupt::default())
}

fn git_at(path: &Path) {
    for part in ["objects", "refs"] {
        fs::create_dir_all(path.join(part)).unwrap();
    }
    fs::write(path.join("HEAD"), "").unwrap();
}

#[test]
fn search_of_a_directory_that_its_owner_cannot_list_is_incomplete() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let hidden = root.path().join("hidden");
    fs::create_dir_all(hidden.join("repository/.git")).unwrap();
    fs::set_permissions(&hidden, PermissionsExt::from_mode(0o311)).unwrap();
    // Root can list every directory.
    assert_eq!(all(root.path()).gaps.is_empty(), rustix::process::geteuid().is_root());
    fs::set_permissions(&hidden, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn search_of_a_directory_of_another_user_is_incomplete_if_it_cannot_be_listed() {
    // The descriptors of process 1, which only its user can list.
    let place = Path::new("/proc/1/fd");
    let gaps: Vec<_> = all(place).gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect();
    let expected = if rustix::process::geteuid().is_root() { vec![] } else { vec![(place.to_path_buf(), Cause::Unreadable)] };
    assert_eq!(gaps, expected);
}

#[test]
fn search_finds_bare_nested_and_linked_repositories() {
    let root = tempfile::tempdir().unwrap();
    let git = |path: &str| git_at(&root.path().join(path));
    for path in [".git", ".git/modules/a/b", ".git/modules/a/b/modules/c", "deep/er/bare", "other/.git"] {
        git(path);
    }
    fs::create_dir_all(root.path().join("linked")).unwrap();
    fs::write(root.path().join("linked/.git"), "gitdir: x").unwrap();
    fs::create_dir_all(root.path().join(".git/worktrees/w")).unwrap();
    for name in ["HEAD", "commondir"] {
        fs::write(root.path().join(".git/worktrees/w").join(name), "").unwrap();
    }
    let mut found = all(root.path());
    found.directories.sort();
    let expected = [".git", ".git/modules/a/b", ".git/modules/a/b/modules/c", ".git/worktrees/w", "deep/er/bare", "other/.git"];
    assert_eq!(found.directories, expected.map(|path| root.path().join(path)));
    assert_eq!(found.files, [root.path().join("linked/.git")]);
    assert!(found.gaps.is_empty());
    // A bare repository in the project's root does not hide the directories below it.
    git("");
    assert!(all(root.path()).directories.contains(&root.path().join("other/.git")));
}

#[test]
fn search_beyond_a_limit_names_the_first_directory_left_out() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a/b", "a/c"] {
        fs::create_dir_all(root.path().join(name)).unwrap();
    }
    let gap = |directories, names| {
        let found = search(
            root.path(),
            Limits { directories, names, ..Limits::TREE },
            &[],
            &SearchedTree::default(),
            &Interrupt::default(),
        );
        let gaps: Vec<_> =
            found.gaps.iter().map(|gap| (gap.path.strip_prefix(root.path()).unwrap().to_owned(), gap.cause)).collect();
        gaps
    };
    assert_eq!(gap(4, 100), []);
    let (path, cause) = gap(3, 100).remove(0);
    assert!(path.parent() == Some(Path::new("a")) && cause == Cause::TooManyDirectories, "{path:?}");
    assert_eq!(gap(100, 4), [(PathBuf::from("a"), Cause::TooManyNames)]);
}

#[test]
fn search_beyond_a_limit_of_git_directories_or_of_long_paths_names_the_first_left_out() {
    let root = tempfile::tempdir().unwrap();
    git_at(&root.path().join("a/.git"));
    git_at(&root.path().join("a/b/c"));
    fs::create_dir(root.path().join("d")).unwrap();
    fs::write(root.path().join("d/.git"), "gitdir: x").unwrap();
    let found = |limits, last: &SearchedTree| search_at(root.path(), limits, &[], last, i64::MAX, &Interrupt::default());
    let gaps = |found: &Found| {
        let below = |path: &Path| path.strip_prefix(root.path()).unwrap().to_path_buf();
        found.gaps.iter().map(|gap| (below(&gap.path), gap.cause)).collect::<Vec<_>>()
    };
    let of_repositories = |repositories| Limits { repositories, ..Limits::TREE };
    let complete = found(of_repositories(3), &SearchedTree::default());
    assert_eq!((complete.directories.len(), complete.files.len(), gaps(&complete)), (2, 1, vec![]));
    // A later search of the unchanged tree has the same limit.
    for last in [&SearchedTree::default(), &complete.tree] {
        let cut = found(of_repositories(2), last);
        assert_eq!((cut.directories.len(), cut.files.len()), (1, 1));
        assert_eq!(gaps(&cut), [("a/b/c".into(), Cause::TooManyRepositories)]);
    }
    let of_bytes = |path_bytes| found(Limits { path_bytes, ..Limits::TREE }, &SearchedTree::default());
    assert_eq!(gaps(&of_bytes(2))[0].1, Cause::TooManyDirectories);
    assert_eq!(gaps(&of_bytes(100)), []);
}

#[test]
fn name_in_another_case_counts_if_the_kernel_finds_it_by_the_name_of_the_list() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for place in ["plain/.CARGO", "same/.CARGO", "plain/r", "same/r"] {
        fs::create_dir_all(at(place)).unwrap();
        fs::write(at(place).parent().unwrap().join(".ENVRC"), "").unwrap();
        for name in ["head", "Objects", "REFS"] {
            fs::write(at(place).join(name), "").unwrap();
        }
    }
    for place in ["plain", "same"] {
        fs::write(at(place).join(".CARGO/config.TOML"), "").unwrap();
        fs::write(at(place).join(".GIT"), "").unwrap();
    }
    assert_eq!((listed_in(root.path()), all(root.path()).directories), (vec![], vec![]));
    // A second name of each object stands in for a directory that ignores case: the kernel finds the object by both names.
    fs::hard_link(at("same/.ENVRC"), at("same/.envrc")).unwrap();
    std::os::unix::fs::symlink(".CARGO", at("same/.cargo")).unwrap();
    fs::hard_link(at("same/.CARGO/config.TOML"), at("same/.CARGO/config.toml")).unwrap();
    fs::hard_link(at("same/.GIT"), at("same/.git")).unwrap();
    for (name, own) in [("head", "HEAD"), ("Objects", "objects"), ("REFS", "refs")] {
        fs::hard_link(at("same/r").join(name), at("same/r").join(own)).unwrap();
    }
    let expected =
        [".CARGO/config.TOML", ".CARGO/config.toml", ".ENVRC", ".cargo", ".envrc"].map(|name| Path::new("same").join(name));
    assert_eq!(listed_in(root.path()), expected);
    let found = all(root.path());
    assert_eq!((found.directories, found.files), (vec![at("same/r")], vec![at("same/.git")]));
}

#[test]
fn search_leaves_out_excepted_trees() {
    let root = tempfile::tempdir().unwrap();
    for name in ["kept/.git", "left/.git"] {
        git_at(&root.path().join(name));
    }
    let found = search(root.path(), Limits::TREE, &[root.path().join("left")], &SearchedTree::default(), &Interrupt::default());
    assert_eq!(found.directories, [root.path().join("kept/.git")]);
}

#[test]
fn search_of_a_large_level_uses_threads_and_finds_every_repository() {
    let root = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for number in 0..PARALLEL + 10 {
        let path = root.path().join(format!("{number:04}/.git"));
        git_at(&path);
        expected.push(path);
    }
    let mut found = all(root.path()).directories;
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn search_of_a_path_longer_than_the_kernel_opens_is_incomplete() {
    let root = tempfile::tempdir().unwrap();
    let mut at = read::open(CWD, root.path(), OFlags::PATH | OFlags::DIRECTORY).unwrap();
    let name = "n".repeat(250);
    for _ in 0..20 {
        rustix::fs::mkdirat(&at, &name, 0o755.into()).unwrap();
        at = read::open(&at, Path::new(&name), OFlags::PATH | OFlags::DIRECTORY).unwrap();
    }
    assert!(all(root.path()).gaps.iter().any(|gap| gap.cause == Cause::Unreadable));
}

/// Makes changes until the file system's clock has moved on, so that the next change has another time stamp.
fn await_tick(root: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let place = tempfile::tempdir_in(root.parent().unwrap()).unwrap();
    let time = |number: usize| {
        fs::create_dir(place.path().join(number.to_string())).unwrap();
        let meta = place.path().metadata().unwrap();
        (meta.ctime(), meta.ctime_nsec())
    };
    let first = time(0);
    (1..).find(|number| time(*number) != first).unwrap();
}

/// A change of a tree of directories named `a`, `b` and `c`.
#[derive(Debug, Clone)]
enum Step {
    Create(String),
    Repository(String),
    Listed(String),
    Remove(String),
    Rename(String, String),
}

fn step() -> impl Strategy<Value = Step> {
    let path = || "[abc](/[abc]){0,3}";
    prop_oneof![
        path().prop_map(Step::Create),
        path().prop_map(Step::Repository),
        path().prop_map(Step::Listed),
        path().prop_map(Step::Remove),
        (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
    ]
}

impl Step {
    fn apply(&self, root: &Path) {
        match self {
            Self::Create(path) => fs::create_dir_all(root.join(path)).unwrap(),
            Self::Repository(path) => git_at(&root.join(path).join(".git")),
            Self::Listed(path) => {
                fs::create_dir_all(root.join(path).join(".cargo")).unwrap();
                for name in [".envrc", ".cargo/config.toml", "lefthook.yml", "x.code-workspace"] {
                    fs::write(root.join(path).join(name), "").unwrap();
                }
            }
            Self::Remove(path) => drop(fs::remove_dir_all(root.join(path))),
            Self::Rename(from, to) => drop(fs::rename(root.join(from), root.join(to))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn search_after_changes_finds_what_a_first_search_finds(
        before in prop::collection::vec(step(), 0..12),
        after in prop::collection::vec(step(), 0..6),
    ) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("tree");
        fs::create_dir(&root).unwrap();
        before.iter().for_each(|step| step.apply(&root));
        // For a clock that is ahead, no directory was changed recently, so that each has a stamp.
        let first = search_at(&root, Limits::TREE, &[], &SearchedTree::default(), i64::MAX, &Interrupt::default());
        await_tick(&root);
        after.iter().for_each(|step| step.apply(&root));
        let second = search_at(&root, Limits::TREE, &[], &first.tree, i64::MAX, &Interrupt::default());
        let expected = all(&root);
        let set = |found: Found| found.directories.into_iter().chain(found.listed).collect::<BTreeSet<_>>();
        prop_assert_eq!(set(second), set(expected));
    }
}

#[test]
fn search_after_no_change_lists_nothing_again() {
    let root = tempfile::tempdir().unwrap();
    git_at(&root.path().join("a/b/.git"));
    fs::write(root.path().join("a/b/.envrc"), "").unwrap();
    let first = search_at(root.path(), Limits::TREE, &[], &SearchedTree::default(), i64::MAX, &Interrupt::default());
    // A search without names left can list no directory.
    let none = Limits { names: 0, ..Limits::TREE };
    let second = search_at(root.path(), none, &[], &first.tree, i64::MAX, &Interrupt::default());
    assert_eq!((second.directories, second.gaps), (first.directories, Gaps::default()));
    assert_eq!((second.listed, first.listed.len()), (first.listed, 1));
    assert!(!search_at(root.path(), none, &[], &SearchedTree::default(), i64::MAX, &Interrupt::default()).gaps.is_empty());
}

/// Returns the listed names found below `root`, sorted.
fn listed_in(root: &Path) -> Vec<PathBuf> {
    let mut listed: Vec<_> = all(root).listed.iter().map(|path| path.strip_prefix(root).unwrap().to_path_buf()).collect();
    listed.sort();
    listed
}

#[test]
fn search_finds_listed_names_in_subdirectories_and_in_git_directories() {
    let root = tempfile::tempdir().unwrap();
    let make = |path: &str| {
        fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        fs::write(root.path().join(path), "").unwrap();
    };
    git_at(&root.path().join("a/.git"));
    let expected = [
        "a/.envrc",
        "a/.git/hooks/.envrc",
        "a/.git/objects/ab/x/.vscode/tasks.json",
        "a/lefthook.yml",
        "b/c/.cargo/config.toml",
        "b/c/x.code-workspace",
    ];
    // The names of the root are looked up by their paths. Only `a` is the root of a repository.
    for path in expected.iter().chain(&[".envrc", "b/lefthook.yml", "b/config.toml", "b/c/envrc"]) {
        make(path);
    }
    std::os::unix::fs::symlink("../c", root.path().join("b/.cargo")).unwrap();
    let mut expected: Vec<PathBuf> = expected.iter().map(|name| name.trim_end_matches("/tasks.json").into()).collect();
    expected.push("b/.cargo".into());
    expected.sort();
    assert_eq!(listed_in(root.path()), expected);
}

#[test]
fn names_of_a_repository_that_do_not_count_leave_room_for_others() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("a/b")).unwrap();
    fs::write(root.path().join("a/lefthook.yml"), "").unwrap();
    fs::write(root.path().join("a/b/.envrc"), "").unwrap();
    let found =
        search(root.path(), Limits { listed: Some(1), ..Limits::TREE }, &[], &SearchedTree::default(), &Interrupt::default());
    assert_eq!((found.listed, found.gaps), (vec![root.path().join("a/b/.envrc")], Gaps::default()));
}

#[test]
fn directory_of_sources_that_looks_like_a_git_directory_hides_nothing() {
    let root = tempfile::tempdir().unwrap();
    git_at(&root.path().join("src"));
    let others =
        ["bare.git", "bare.git/objects/aa/.git", "src/.git", "src/.git/objects/aa/x", "src/a/.git", "src/objects/b/.git"];
    for path in others {
        git_at(&root.path().join(path));
    }
    for path in ["src/a/.envrc", "src/objects/.envrc"] {
        fs::write(root.path().join(path), "").unwrap();
    }
    assert_eq!(listed_in(root.path()), ["src/a/.envrc", "src/objects/.envrc"].map(PathBuf::from));
    let mut found = all(root.path()).directories;
    found.sort();
    let mut expected: Vec<PathBuf> = others.iter().chain(&["src"]).map(|path| root.path().join(path)).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn search_beyond_the_limit_of_listed_names_keeps_those_nearest_to_the_root_and_names_the_first_left_out() {
    let root = tempfile::tempdir().unwrap();
    for directory in ["a", "a/b", "a/b/c"] {
        fs::create_dir(root.path().join(directory)).unwrap();
        fs::write(root.path().join(directory).join(".envrc"), "").unwrap();
    }
    let limits = |listed| Limits { listed: Some(listed), ..Limits::TREE };
    let found = |listed, last: &SearchedTree| search_at(root.path(), limits(listed), &[], last, i64::MAX, &Interrupt::default());
    assert!(found(3, &SearchedTree::default()).gaps.is_empty());
    let first = found(2, &SearchedTree::default());
    let gaps = |found: &Found| found.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect::<Vec<_>>();
    assert_eq!(gaps(&first), [(root.path().join("a/b/c"), Cause::TooManyListed)]);
    assert_eq!(first.listed, ["a/.envrc", "a/b/.envrc"].map(|path| root.path().join(path)));
    // A later search with more room finds what was left out, and one with less room also has the limit for known names.
    assert_eq!(found(3, &first.tree).listed.len(), 3);
    assert_eq!(gaps(&found(1, &first.tree))[0], (root.path().join("a/b/.envrc"), Cause::TooManyListed));
}
