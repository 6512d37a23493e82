//! The list of toolchains and caches, parsed from `layouts.txt` in this directory.

use std::{path::Path, sync::LazyLock};

const SOURCE: &str = include_str!("layouts.txt");

/// The section whose secrets apply to every directory.
const EVERYWHERE: &str = "*";

/// One section of the list: an installation layout of a tool.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// The name of the tool.
    pub name: &'static str,
    /// Directories, at least one of which must be on the caller's `PATH` for `show` to apply.
    pub on_path: Vec<&'static str>,
    /// Directories shown read-only.
    pub show: Vec<&'static str>,
    /// Directories shown copy-on-write.
    pub caches: Vec<&'static str>,
    /// Variables that are set in the sandbox, and the place that each of them names.
    pub set: Vec<(&'static str, &'static str)>,
    /// Variables with which the caller moves a place, including those of `set`. The first variable that is set applies.
    pub moved: Vec<(&'static str, &'static str)>,
    /// Files that must not exist in a shown directory.
    pub secrets: Vec<Secret>,
}

/// A file that may hold credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Secret {
    /// The path, in which one `*` may stand for one name.
    pub path: &'static str,
    /// XML elements, separated by `|`. If elements are listed, a file without these elements holds no credentials.
    pub elements: Option<&'static str>,
}

/// All sections except `[*]`, and the secrets of `[*]`.
pub(super) struct List {
    pub layouts: Vec<Layout>,
    pub secrets: Vec<Secret>,
}

/// The list compiled into this program.
pub(super) static LIST: LazyLock<List> = LazyLock::new(|| parse(SOURCE));

/// Parses the list. A line in a form that the top of the file does not describe has no effect; a test rejects such a file.
fn parse(source: &'static str) -> List {
    let mut layouts = vec![Layout { name: EVERYWHERE, ..Layout::default() }];
    for line in source.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if name != EVERYWHERE {
                layouts.push(Layout { name, ..Layout::default() });
            }
        } else if let (Some((keyword, value, _)), Some(layout)) = (fields(line), layouts.last_mut()) {
            layout.add(keyword, value);
        }
    }
    let everywhere = layouts.remove(0);
    List { layouts, secrets: everywhere.secrets }
}

/// Returns keyword, value and reason of a line.
fn fields(line: &str) -> Option<(&str, &str, &str)> {
    if line.starts_with('#') {
        return None;
    }
    let (keyword, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    // Every start of agentd parses the list. `str::find` takes ten times as long for two characters.
    let end = rest.as_bytes().windows(2).position(|pair| pair == b"  ")?;
    Some((keyword, &rest[..end], rest[end..].trim()))
}

impl Layout {
    /// Adds the setting of a line. Returns false for an unknown keyword, and for a variable without a place.
    fn add(&mut self, keyword: &str, value: &'static str) -> bool {
        match (keyword, value.split_once(' ')) {
            ("on-path", None) => self.on_path.push(value),
            ("show", None) => self.show.push(value),
            ("cache", None) => self.caches.push(value),
            ("secret", None) => self.secrets.push(Secret { path: value, elements: None }),
            ("secret", Some((path, elements))) => self.secrets.push(Secret { path, elements: Some(elements) }),
            ("set", Some(pair)) => {
                self.set.push(pair);
                self.moved.push(pair);
            }
            ("moved", Some(pair)) => self.moved.push(pair),
            _ => return false,
        }
        true
    }

    /// Returns the variables that may move `place`, each with the path of `place` relative to the place that the variable moves.
    pub(super) fn moves<'a>(&'a self, place: &'a Path) -> impl Iterator<Item = (&'static str, &'a Path)> {
        self.moved.iter().filter_map(move |(variable, moved)| Some((*variable, place.strip_prefix(moved).ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Component;

    #[test]
    fn layout_lines_have_known_keyword_plain_path_and_reason() {
        for line in SOURCE.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
            let (keyword, value, reason) = fields(line).unwrap_or_else(|| panic!("{line}"));
            assert!(Layout::default().add(keyword, value) && !reason.is_empty(), "{line}");
            let mut parts = value.split(' ');
            let path = if matches!(keyword, "set" | "moved") { parts.nth(1) } else { parts.next() }.unwrap();
            assert!(Path::new(path).components().all(|part| matches!(part, Component::Normal(_))), "{line}");
        }
    }

    #[test]
    fn secrets_lie_in_directories_that_are_shown() {
        assert!(LIST.secrets.iter().all(|secret| !secret.path.contains('*') && secret.elements.is_none()));
        for layout in &LIST.layouts {
            for secret in &layout.secrets {
                let is_shown = layout.show.iter().chain(&layout.caches).any(|shown| Path::new(secret.path).starts_with(shown));
                assert!(is_shown && secret.path.matches('*').count() <= 1, "{}: {secret:?} has no effect", layout.name);
            }
        }
    }

    #[test]
    fn layout_names_are_valid_option_values() {
        for layout in &LIST.layouts {
            assert!(layout.name.bytes().all(|byte| byte.is_ascii_lowercase()) && layout.name != "all", "{}", layout.name);
            assert!(layout.show.is_empty() || !layout.on_path.is_empty(), "{} is never shown", layout.name);
        }
    }

    #[test]
    fn caches_are_exactly_the_reviewed_ones() {
        let caches: Vec<&str> = LIST.layouts.iter().flat_map(|layout| layout.caches.iter().copied()).collect();
        let allowed = [
            ".cargo/registry",
            ".cargo/git",
            ".cache/pip",
            ".npm/_cacache",
            "go/pkg/mod",
            ".m2/repository",
            ".gradle/caches/modules-2",
            ".gradle/wrapper",
        ];
        assert_eq!(caches, allowed);
    }

    #[test]
    fn caches_do_not_overlap_shown_directories() {
        for cache in LIST.layouts.iter().flat_map(|layout| &layout.caches).map(Path::new) {
            for shown in LIST.layouts.iter().flat_map(|layout| &layout.show).map(Path::new) {
                assert!(!cache.starts_with(shown) && !shown.starts_with(cache), "{cache:?} {shown:?}");
            }
        }
    }
}
