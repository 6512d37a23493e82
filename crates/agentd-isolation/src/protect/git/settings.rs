//! Collects the paths that git's settings name. Reads every file that git would read: the settings of the system, the user and
//! the repository, and included files.

use super::{
    super::{
        gaps::{Cause, Gaps},
        interrupt::Interrupt,
        links::Links,
        read,
    },
    config::{self, Variable},
};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// The maximum number of files that are read for one repository.
const MAX_FILES: usize = 64;

/// The maximum depth of includes; git fails beyond it (`MAX_INCLUDE_DEPTH` in its `config.c`).
const MAX_DEPTH: usize = 10;

/// The maximum number of files that are read for all repositories of a tree.
const MAX_FILES_OF_ALL: usize = 1024;

/// The names of the settings files in a git directory.
const SETTINGS: [&str; 2] = ["config", "config.worktree"];

/// The maximum number of words of a command that are examined.
const MAX_WORDS: usize = 16;

/// The maximum number of values that are looked up in the file system as paths. No genuine settings name so many.
const MAX_PLACES: usize = 4096;

/// The maximum length of a path in the kernel (`PATH_MAX`), and therefore in git.
const MAX_PATH: usize = 4096;

/// The paths that settings name.
#[derive(Debug, Default)]
pub(in super::super) struct Named {
    /// Absolute paths, which need not exist.
    pub paths: Vec<PathBuf>,
    /// The settings that were not read, or whose paths were not all added.
    pub gaps: Gaps,
}

impl Named {
    /// Adds the paths of `other`.
    pub(in super::super) fn add(&mut self, other: Self) {
        self.paths.extend(other.paths);
        self.gaps.merge(other.gaps);
    }
}

/// Variables whose values are commands, programs or their directories: section and key.
const COMMANDS: [(&str, &str); 33] = [
    ("alias", "*"),
    ("pager", "*"),
    ("core", "alternaterefscommand"),
    ("core", "askpass"),
    ("core", "editor"),
    ("core", "fsmonitor"),
    ("core", "gitproxy"),
    ("core", "pager"),
    ("core", "sshcommand"),
    ("core", "attributesfile"),
    ("credential", "helper"),
    ("diff", "command"),
    ("diff", "external"),
    ("diff", "textconv"),
    ("difftool", "cmd"),
    ("difftool", "path"),
    ("filter", "clean"),
    ("filter", "process"),
    ("filter", "smudge"),
    ("gpg", "defaultkeycommand"),
    ("gpg", "program"),
    ("hook", "command"),
    ("interactive", "difffilter"),
    ("merge", "driver"),
    ("mergetool", "cmd"),
    ("mergetool", "path"),
    ("remote", "receivepack"),
    ("remote", "uploadpack"),
    ("sequence", "editor"),
    ("trailer", "cmd"),
    ("trailer", "command"),
    ("uploadpack", "packobjectshook"),
    ("init", "templatedir"),
];

/// Returns the paths that the settings in `files` and those of user and system name. Relative paths start at `worktree`.
/// Conditional includes are always followed, because their conditions depend on state that a payload can change.
pub(super) fn named(files: &[PathBuf], worktree: &Path, interrupt: &Interrupt) -> Named {
    of_each([(files.to_vec(), worktree)], MAX_FILES, interrupt)
}

/// Returns the named paths like [`named`] for git directories with their worktrees. All repositories share one limit of files,
/// because a payload may have created hundreds of them.
pub(in super::super) fn named_by_all<'a>(
    directories: impl IntoIterator<Item = (&'a Path, &'a Path)>,
    interrupt: &Interrupt,
) -> Named {
    let files = |directory: &Path| SETTINGS.map(|name| directory.join(name)).to_vec();
    of_each(directories.into_iter().map(|(directory, worktree)| (files(directory), worktree)), MAX_FILES_OF_ALL, interrupt)
}

/// Reads the settings of each repository; `files` is the total number of files to read at most.
fn of_each<'a>(repositories: impl IntoIterator<Item = (Vec<PathBuf>, &'a Path)>, files: usize, interrupt: &Interrupt) -> Named {
    let home = std::env::home_dir();
    // The user's settings file may be a link, for example into a repository of dotfiles.
    let of_user: Vec<PathBuf> = of_user(home.as_deref()).into_iter().filter_map(|file| file.canonicalize().ok()).collect();
    let named = Named::default();
    let (home, worktree) = (home.as_deref(), Path::new("/"));
    let links = Links::new(interrupt);
    let mut reader = Reader { home, worktree, files, depth: 0, places: MAX_PLACES, links, interrupt, named };
    for (own, worktree) in repositories {
        reader.worktree = worktree;
        of_user.iter().chain(&own).for_each(|file| reader.read(file));
    }
    let mut named = reader.named;
    named.gaps.merge(reader.links.gaps);
    named.paths.sort();
    named.paths.dedup();
    named
}

fn of_user(home: Option<&Path>) -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/gitconfig")];
    if let Some(home) = home {
        let folder = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        files.extend([folder.join("git/config"), home.join(".gitconfig")]);
    }
    files
}

struct Reader<'a> {
    home: Option<&'a Path>,
    worktree: &'a Path,
    /// The number of files that may still be read.
    files: usize,
    /// The number of files that include the present one.
    depth: usize,
    /// The number of values that may still be looked up.
    places: usize,
    links: Links,
    interrupt: &'a Interrupt,
    named: Named,
}

impl Reader<'_> {
    fn read(&mut self, file: &Path) {
        if self.interrupt.is_due() {
            return self.named.gaps.add(self.worktree, Cause::Interrupted);
        }
        let Some(left) = self.files.checked_sub(1) else {
            self.named.gaps.add(file, Cause::TooManySettings);
            return;
        };
        self.files = left;
        if self.depth > MAX_DEPTH {
            self.named.gaps.add(file, Cause::TooManySettings);
            return;
        }
        self.depth += 1;
        if let Some(content) = read::absolute(file).or_else(|| self.read_elsewhere(file)) {
            config::parse(&content, |variable| self.variable(variable, file));
        }
        self.depth -= 1;
    }

    /// Reads the target of a link in place of a settings file, as git does. Adds a gap if the target is too large or cannot be
    /// read, because git would still read it.
    fn read_elsewhere(&mut self, file: &Path) -> Option<Vec<u8>> {
        let resolved = self.links.resolve(file);
        if let Some(failed) = resolved.failed {
            self.named.gaps.add(failed.parent().unwrap_or(file), Cause::Unreadable);
        }
        let target = resolved.target?;
        let content = if target == file { None } else { read::absolute(&target) };
        if content.is_none() && target.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            let is_large = target.symlink_metadata().is_ok_and(|meta| meta.len() > read::MAX_FILE_BYTES);
            self.named.gaps.add(file, if is_large { Cause::TooManySettings } else { Cause::UnreadableFile });
        }
        content
    }

    fn variable(&mut self, variable: &Variable<'_>, file: &Path) {
        let Some(value) = variable.value.as_deref().filter(|value| !value.is_empty()) else { return };
        let (section, key) = (variable.section(), variable.key.as_slice());
        if key == b"path" && (section == b"include" || section == b"includeif") {
            let folder = file.parent().unwrap_or(file);
            if let Some(included) = self.place(folder, value, |_| true) {
                self.read(&included);
            }
        } else if section == b"core" && key == b"hookspath" {
            self.place(self.worktree, value, |_| true);
        } else if COMMANDS.iter().any(|(s, k)| section == s.as_bytes() && (*k == "*" || key == k.as_bytes())) {
            let words = value.split(|c| c.is_ascii_whitespace() || b"\"'!;&|()".contains(c)).filter(|word| !word.is_empty());
            for word in words.take(MAX_WORDS) {
                // A word that names a file of the worktree is treated as a program or a script.
                self.place(self.worktree, word, Path::is_file);
            }
        }
    }

    /// Adds and returns the path that a value names, without links, `.` and `..`, if `counts` is true for it. The links on the
    /// way are also added.
    fn place(&mut self, base: &Path, value: &[u8], counts: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        if value.len() > MAX_PATH {
            return None;
        }
        let path = match value.strip_prefix(b"~/") {
            Some(below) => self.home?.join(OsStr::from_bytes(below)),
            // `~user/` names another user's home directory, which is never part of a project.
            None if value.starts_with(b"~") => return None,
            None => base.join(OsStr::from_bytes(value)),
        };
        let Some(left) = self.places.checked_sub(1) else {
            self.named.gaps.add(base, Cause::TooManySettings);
            return None;
        };
        self.places = left;
        let resolved = self.links.resolve(&path);
        let place = resolved.target.unwrap_or_else(|| plain(&path));
        if !counts(&place) {
            return None;
        }
        self.named.paths.extend(resolved.links);
        self.named.paths.push(place.clone());
        Some(place)
    }
}

/// Removes `.` and `..` from `path`, as if no component were a link.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(config: &str, name: &str) -> bool {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().canonicalize().unwrap().join("work");
        fs::create_dir_all(work.join("tools/hooks")).unwrap();
        fs::create_dir_all(work.join(".git")).unwrap();
        fs::write(work.join("tools/filter"), "").unwrap();
        fs::write(work.join("shared"), "[core]\nhooksPath = tools/hooks\n").unwrap();
        fs::write(work.join(".git/config"), config).unwrap();
        named(&[work.join(".git/config")], &work, &Interrupt::default()).paths.contains(&work.join(name))
    }

    /// Returns whether settings with this configuration are reported as incomplete.
    fn is_incomplete(config: &[u8]) -> bool {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("config");
        fs::write(&file, config).unwrap();
        !named(&[file], root.path(), &Interrupt::default()).gaps.is_empty()
    }

    #[test]
    fn settings_over_a_limit_are_incomplete() {
        assert!(!is_incomplete(b"[core]\nhooksPath = x\n"));
        let many = |count| [&b"[core]\n"[..], &b"hooksPath=a\n".repeat(count)].concat();
        assert!(!is_incomplete(&many(MAX_PLACES / 2)));
        assert!(is_incomplete(&many(MAX_PLACES + 1)));
        assert!(is_incomplete(&vec![b'\n'; usize::try_from(read::MAX_FILE_BYTES).unwrap() + 1]));
        assert!(is_incomplete(b"[include]\npath = config\n"));
    }

    #[test]
    fn hooks_path_is_found_in_every_form_that_git_reads() {
        for config in [
            "[core]\nhooksPath = tools/hooks",
            "[core]\nhooksPath = ./tools/hooks # ours",
            "[core]\nhooksPath = src/../tools/hooks",
            "[core]\nhooksPath = \"tools\"/hooks",
            "[core]\nhooksPath = to\\\nols/hooks",
            "[include]\npath = ../shared",
            "[includeIf \"onbranch:x\"]\npath = ../shared",
        ] {
            assert!(names(config, "tools/hooks"), "{config}");
        }
        assert!(names("[include]\npath = ../shared", "shared"));
        assert!(!names("[core \"x\"]\nhooksPath = tools/other", "tools/hooks"));
    }

    #[test]
    fn programs_in_the_worktree_are_found_in_commands() {
        for config in [
            "[filter \"x\"]\nclean = tools/filter --x",
            "[core]\nfsmonitor = ./tools/filter",
            "[alias]\nx = !sh tools/filter",
            "[credential \"https://x\"]\nhelper = \"!tools/filter get\"",
        ] {
            assert!(names(config, "tools/filter"), "{config}");
        }
        assert!(!names("[user]\nname = tools/filter", "tools/filter"));
    }

    #[test]
    fn file_that_includes_itself_is_read_a_bounded_number_of_times() {
        assert!(names("[include]\npath = config\n[core]\nhooksPath = tools/hooks", "tools/hooks"));
    }
}
