//! The places on the way to a file that agentd trusts, and whether a grant shows them.

use super::find::MAX_LINKS;
use agentd_core::Grant;
use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Returns every place on the way to a file: the location of each link that the kernel follows, then that of the file. Only the
/// file has no link in its path.
///
/// # Errors
/// The path leads to no file, or through more links than the kernel follows.
pub fn places(path: &Path) -> io::Result<Vec<PathBuf>> {
    let reversed = |path: &Path| {
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
        parts.map(|part| part.as_os_str().to_owned()).rev().collect::<Vec<_>>()
    };
    let mut left = reversed(&std::path::absolute(path)?);
    let (mut at, mut places) = (PathBuf::from("/"), Vec::new());
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(part);
        if !next.symlink_metadata()?.is_symlink() {
            at = next;
            continue;
        }
        if places.len() == MAX_LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = next.read_link()?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(reversed(&target));
        places.push(next);
    }
    places.push(at);
    Ok(places)
}

/// Returns true if a grant shows the place, by its path or by a directory that is also mounted elsewhere.
pub fn shows(grant: &Grant, place: &Path) -> bool {
    let object = |found: Metadata| (found.dev(), found.ino());
    let granted = fs::metadata(&grant.path).ok().map(object);
    let is_granted = |above: &Path| granted.is_some() && fs::symlink_metadata(above).ok().map(object) == granted;
    place.starts_with(&grant.path) || place.ancestors().any(is_granted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Access;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_to_a_file_is_a_place() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["safe", "work", "other"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::write(root.join("safe/file"), "").unwrap();
        // The ends of both paths lie outside of `work`, but each path leads through it.
        symlink("../safe", root.join("work/folder")).unwrap();
        symlink(root.join("work/middle"), root.join("other/chain")).unwrap();
        symlink("../safe/file", root.join("work/middle")).unwrap();
        let file = root.join("safe/file");
        assert_eq!(places(&root.join("work/folder/file")).unwrap(), [root.join("work/folder"), file.clone()]);
        let chain = places(&root.join("work/../other/chain")).unwrap();
        assert_eq!(chain, [root.join("other/chain"), root.join("work/middle"), file]);
        symlink("loop", root.join("loop")).unwrap();
        assert!(places(&root.join("loop")).is_err() && places(&root.join("missing")).is_err());
    }

    #[test]
    fn place_is_shown_by_the_grant_that_contains_it_under_any_name() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("work/below")).unwrap();
        symlink("work", root.join("link")).unwrap();
        for (granted, place, shown) in [
            ("work", "work/below/file", true),
            ("work", "link", false),
            ("link", "work/below/file", true),
            ("work/below", "work/file", false),
            ("missing", "missing/file", true),
            ("missing", "work/file", false),
        ] {
            let grant = Grant::new(root.join(granted), Access::ReadWrite);
            assert_eq!(shows(&grant, &root.join(place)), shown, "{granted} {place}");
        }
    }
}
