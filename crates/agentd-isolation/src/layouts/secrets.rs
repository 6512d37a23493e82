//! Detects credentials in a directory of a layout, by the names of its files and, for some, by the XML elements in them.

use super::list::{LIST, Layout, Secret};
use std::{
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The maximum number of entries of a directory in which a `*` is looked up. A directory with more is refused: an earlier sandbox
/// may have filled it.
const MAX_ENTRIES: usize = 4096;

/// The maximum size of an XML file that is read, in bytes. A larger file counts as a secret.
const MAX_XML_BYTES: u64 = 256 << 10;

/// Returns why the directory `shown` must not be shown: it contains a secret, either one that [`LIST`] names for every directory
/// or one of `layout`. `place` turns a path of the list into a path on this host.
pub(super) fn contained(shown: &Path, layout: &Layout, place: impl Fn(&str) -> Option<PathBuf>) -> Option<String> {
    let everywhere = LIST.secrets.iter().map(|secret| shown.join(secret.path)).find(|path| exists(path));
    let own = layout.secrets.iter().find_map(|secret| {
        let pattern = place(secret.path)?;
        // A link above the place can lead into `shown`, so the resolved path is compared.
        let inside = |directory: &Path| directory.canonicalize().ok().filter(|directory| directory.starts_with(shown));
        match split(&pattern) {
            Some((directory, rest)) => first_below(&inside(&directory)?, &rest, secret),
            None => {
                let path = inside(pattern.parent()?)?.join(pattern.file_name()?);
                is_secret(&path, secret).then_some(path)
            }
        }
    });
    everywhere
        .or(own)
        .map(|path| format!("the directory contains {}, which may hold credentials — move that file elsewhere", path.display()))
}

/// Splits a pattern into the path before the `*` and the path after it.
fn split(pattern: &Path) -> Option<(PathBuf, PathBuf)> {
    let star = pattern.components().position(|part| part.as_os_str() == "*")?;
    Some((pattern.components().take(star).collect(), pattern.components().skip(star + 1).collect()))
}

/// Returns the first secret `rest` in a subdirectory of `directory`, or `directory` itself if it has too many entries.
fn first_below(directory: &Path, rest: &Path, secret: &Secret) -> Option<PathBuf> {
    let entries = directory.read_dir().ok()?;
    for (number, entry) in entries.flatten().enumerate() {
        if number == MAX_ENTRIES {
            return Some(directory.to_path_buf());
        }
        let path = entry.path().join(rest);
        if is_secret(&path, secret) {
            return Some(path);
        }
    }
    None
}

/// Returns whether a file exists and may hold credentials. A file that cannot be read as text counts as one that may.
fn is_secret(path: &Path, secret: &Secret) -> bool {
    let Some(elements) = secret.elements else { return exists(path) };
    exists(path) && read(path).is_none_or(|text| has_element(&text, elements))
}

/// Reads a regular file, without waiting: the path may have become a FIFO.
fn read(path: &Path) -> Option<String> {
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).ok()?;
    let is_small = file.metadata().is_ok_and(|stat| stat.is_file() && stat.len() <= MAX_XML_BYTES);
    let mut text = String::new();
    is_small.then(|| file.take(MAX_XML_BYTES).read_to_string(&mut text).ok())??;
    Some(text)
}

/// Returns whether XML text has one of the elements outside of comments, or a comment without an end.
fn has_element(text: &str, elements: &str) -> bool {
    let mut parts = text.split("<!--");
    let first = parts.next().unwrap_or_default();
    let outside: Option<Vec<&str>> = parts.map(|part| part.split_once("-->").map(|(_, after)| after)).collect();
    let Some(outside) = outside else { return true };
    let is_end = |after: &str| !after.starts_with(|c: char| c.is_alphanumeric() || "-_.:".contains(c));
    [first].into_iter().chain(outside).any(|part| {
        let mut starts = part.split('<').skip(1);
        starts.any(|start| elements.split('|').any(|element| start.strip_prefix(element).is_some_and(is_end)))
    })
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_elements_are_found_outside_of_comments_only() {
        let shipped = "<settings><!-- <server><password>x</password></server> --><servers></servers><!----></settings>";
        assert!(!has_element(shipped, "server|proxy"));
        for text in ["<server>", "<servers><server\n>", "<!-- --><proxy/>", "<a><!-- <!-- --><server>", "<!-- open", "<server"] {
            assert!(has_element(text, "server|proxy"), "{text}");
        }
    }

    #[test]
    fn secret_without_a_star_is_found() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        std::fs::create_dir_all(home.join("tool/conf")).unwrap();
        let layout = Layout { secrets: vec![Secret { path: "tool/conf/token", elements: None }], ..Layout::default() };
        let contained = |shown: &str| contained(&home.join(shown), &layout, |place| Some(home.join(place)));
        assert_eq!(contained("tool"), None);
        std::fs::write(home.join("tool/conf/token"), "").unwrap();
        assert!(contained("tool").is_some_and(|reason| reason.contains("tool/conf/token")));
        assert_eq!(contained("tool/conf/other"), None);
    }
}
