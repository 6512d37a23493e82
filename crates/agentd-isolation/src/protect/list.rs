//! The list of protected paths, parsed from `paths.txt` in this directory.

use std::sync::LazyLock;

const SOURCE: &str = include_str!("paths.txt");

/// The section of a path: the directory that the path is relative to, and the protection that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Git,
    GitReported,
    Workspace,
    WorkspaceRepository,
    WorkspaceSuffix,
}

/// The protected paths.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Below a git directory: read-only if they exist.
    pub git: Vec<&'static str>,
    /// Below a git directory: writable, but changes are reported.
    pub git_reported: Vec<&'static str>,
    /// Below a writable grant: read-only if they exist. Reported in subdirectories.
    pub workspace: Vec<&'static str>,
    /// Names among `workspace` that count in a subdirectory only if it is the root of a repository.
    pub of_repository: Vec<&'static str>,
    /// Suffixes of names directly in a writable grant: such a name is read-only if it exists. Reported in subdirectories.
    pub suffixes: Vec<&'static str>,
}

/// The list compiled into this program.
pub(super) static LIST: LazyLock<List> = LazyLock::new(|| {
    let mut list = List::default();
    for (section, path, _) in entries(SOURCE) {
        match section {
            Section::Git => list.git.push(path),
            Section::GitReported => list.git_reported.push(path),
            Section::Workspace => list.workspace.push(path),
            Section::WorkspaceRepository => {
                list.workspace.push(path);
                list.of_repository.push(path);
            }
            Section::WorkspaceSuffix => list.suffixes.push(path),
        }
    }
    list
});

/// Returns the suffix of a name in a writable grant that makes the name a protected path.
pub(super) fn suffix(name: &[u8]) -> Option<&'static [u8]> {
    let mut suffixes = LIST.suffixes.iter().map(|end| end.as_bytes());
    // Programs compare suffixes without regard to case on some systems.
    suffixes.find(|end| name.len() > end.len() && name[name.len() - end.len()..].eq_ignore_ascii_case(end))
}

/// Returns section, path and reason of each line. A malformed line is left out; a test rejects such a file.
fn entries(source: &str) -> impl Iterator<Item = (Section, &str, &str)> {
    let mut section = None;
    source.lines().filter_map(move |line| match line {
        "[git directory]" => {
            section = Some(Section::Git);
            None
        }
        "[git directory, reported]" => {
            section = Some(Section::GitReported);
            None
        }
        "[workspace]" => {
            section = Some(Section::Workspace);
            None
        }
        "[workspace, roots of repositories]" => {
            section = Some(Section::WorkspaceRepository);
            None
        }
        "[workspace, suffixes of names]" => {
            section = Some(Section::WorkspaceSuffix);
            None
        }
        _ if line.starts_with('#') => None,
        _ => {
            let (path, reason) = line.split_once("  ")?;
            Some((section?, path, reason.trim()))
        }
    })
}

#[cfg(test)]
mod tests {
    /// The column in which reasons start.
    const REASONS: usize = 29;

    use super::*;
    use std::{
        collections::HashSet,
        path::{Component, Path},
    };

    #[test]
    fn protected_list_lines_are_plain_relative_paths_with_reason() {
        let lines = SOURCE.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])).count();
        assert_eq!(entries(SOURCE).count(), lines, "a line without section, path or reason");
        for (_, path, reason) in entries(SOURCE) {
            assert!(!reason.is_empty(), "{path}");
            assert!(Path::new(path).components().all(|part| matches!(part, Component::Normal(_))), "{path}");
        }
    }

    #[test]
    fn list_has_only_known_sections_and_columns() {
        let (mut sections, mut entries) = (Vec::new(), 0);
        for (number, line) in SOURCE.lines().enumerate() {
            let line_is = |text: &str| format!("line {}: {text}: {line}", number + 1);
            assert!(line.is_ascii() && !line.contains('\t') && line.trim_end() == line, "{}", line_is("odd characters"));
            if line.starts_with('[') {
                sections.push(line);
            } else if !line.is_empty() && !line.starts_with('#') {
                let (path, reason) = line.split_once("  ").unwrap_or_else(|| panic!("{}", line_is("no reason")));
                assert!(!path.contains(' ') && path == path.trim_end_matches('/'), "{}", line_is("odd path"));
                // The reasons start in one column, unless the path is too long.
                assert!(
                    path.len() > 27 || line.len() - reason.trim().len() == REASONS,
                    "{}",
                    line_is("reason in another column")
                );
                assert!(reason.trim().split(' ').count() > 1, "{}", line_is("reason of one word"));
                entries += 1;
            }
        }
        let known = [
            "[git directory]",
            "[git directory, reported]",
            "[workspace]",
            "[workspace, roots of repositories]",
            "[workspace, suffixes of names]",
        ];
        assert_eq!(sections, known, "entries of an unknown section would belong to the one before");
        let list = [&LIST.git, &LIST.git_reported, &LIST.workspace, &LIST.suffixes];
        assert_eq!(list.map(Vec::len).iter().sum::<usize>(), entries);
        assert!(LIST.of_repository.iter().all(|name| !name.contains('/')), "`.git` is looked for in the directory of the name");
        assert!(LIST.suffixes.iter().all(|end| end.starts_with('.') && end.len() > 1), "{:?}", LIST.suffixes);
    }

    #[test]
    fn files_that_an_attack_found_in_no_list_are_protected() {
        let names = [
            ".hg/hgrc",
            ".yarnrc",
            ".pnpmfile.cjs",
            ".Rprofile",
            "bunfig.toml",
            ".mise.toml",
            "GEMINI.md",
            ".codex",
            ".zed/tasks.json",
            ".mvn/extensions.xml",
            "lefthook.yml",
            ".bash_logout",
        ];
        for name in names {
            assert!(LIST.workspace.iter().any(|listed| Path::new(name).starts_with(listed)), "{name}");
        }
    }

    #[test]
    fn protected_list_has_no_duplicate_path() {
        let mut seen = HashSet::new();
        for (section, path, _) in entries(SOURCE) {
            let of_git = matches!(section, Section::Git | Section::GitReported);
            assert!(seen.insert((of_git, path)), "{path}");
        }
    }

    #[test]
    fn protected_list_section_has_no_nested_paths() {
        for (section, path, _) in entries(SOURCE) {
            for (other_section, other, _) in entries(SOURCE) {
                let inside = path != other && Path::new(path).starts_with(other);
                assert!(!(section == other_section && inside), "{path} lies in {other}");
            }
        }
    }
}
