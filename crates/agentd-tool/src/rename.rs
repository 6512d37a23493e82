//! Renames a file to a name that no other file has.

use crate::{resolve::kind, response::NodeKind};
use rustix::{
    fs::{AtFlags, Mode, RenameFlags, linkat, mkdirat, renameat, renameat_with, statat, unlinkat},
    io::Errno,
};
use std::{ffi::OsStr, os::fd::BorrowedFd};

/// The name of a file in an open directory.
#[derive(Clone, Copy)]
pub(crate) struct DirectoryEntry<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
}

/// Renames a file, and replaces nothing.
///
/// # Errors
/// [`Errno::EXIST`] if the new name exists, also as a link that leads nowhere; otherwise the errno of a system call.
pub(crate) fn rename_without_replacing(from: DirectoryEntry<'_>, to: DirectoryEntry<'_>) -> Result<(), Errno> {
    match renameat_with(from.directory, from.name, to.directory, to.name, RenameFlags::NOREPLACE) {
        // Network file systems and most of FUSE do not support the flag (`man 2 rename`, EINVAL). A directory that would be moved
        // into itself has the same error, and has it again below.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => rename_by_new_name(from, to),
        renamed => renamed,
    }
}

/// Renames a file on a file system that cannot rename without replacing. `link(2)` and `mkdir(2)` create a name only if it does
/// not exist. A process that is killed between the two steps leaves a file with both names, or an empty directory.
fn rename_by_new_name(from: DirectoryEntry<'_>, to: DirectoryEntry<'_>) -> Result<(), Errno> {
    let found = statat(from.directory, from.name, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind(&found) != NodeKind::Directory {
        linkat(from.directory, from.name, to.directory, to.name, AtFlags::empty())?;
        return unlinkat(from.directory, from.name, AtFlags::empty());
    }
    mkdirat(to.directory, to.name, Mode::RWXU)?;
    // Replaces a directory only while it is empty (`man 2 rename`).
    renameat(from.directory, from.name, to.directory, to.name).inspect_err(|_| {
        // The caller gets the error of the rename. A directory that is not empty by now belongs to somebody else.
        let _ = unlinkat(to.directory, to.name, AtFlags::REMOVEDIR);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, File},
        os::fd::AsFd as _,
    };

    /// Renames `from` to `to` by both ways in new directories that `prepare` fills, and compares them.
    fn renamed(from: &str, to: &str, prepare: impl Fn(&std::path::Path)) -> (Result<(), Errno>, Vec<String>) {
        let by_each_way = [rename_without_replacing, rename_by_new_name].map(|rename| {
            let directory = tempfile::tempdir().unwrap();
            prepare(directory.path());
            let opened = File::open(directory.path()).unwrap();
            let entry = |name| DirectoryEntry { directory: opened.as_fd(), name: OsStr::new(name) };
            let result = rename(entry(from), entry(to));
            let mut names: Vec<String> =
                fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            (result, names)
        });
        let [by_flag, by_new_name] = by_each_way;
        assert_eq!(by_flag, by_new_name);
        by_flag
    }

    #[test]
    fn files_links_and_directories_get_a_new_name() {
        let moved = (Ok(()), vec!["new".to_owned()]);
        assert_eq!(renamed("old", "new", |path| fs::write(path.join("old"), "x").unwrap()), moved);
        assert_eq!(renamed("old", "new", |path| std::os::unix::fs::symlink("nowhere", path.join("old")).unwrap()), moved);
        assert_eq!(renamed("old", "new", |path| fs::create_dir_all(path.join("old/below")).unwrap()), moved);
    }

    #[test]
    fn name_that_exists_is_not_replaced() {
        let kept = (Err(Errno::EXIST), vec!["new".to_owned(), "old".to_owned()]);
        for source in ["file", "directory"] {
            let create = |kind: &str, path: std::path::PathBuf| match kind {
                "file" => fs::write(path, "x").unwrap(),
                "link" => std::os::unix::fs::symlink("nowhere", path).unwrap(),
                _ => fs::create_dir(path).unwrap(),
            };
            for target in ["file", "link", "directory"] {
                let prepare = |path: &std::path::Path| {
                    create(source, path.join("old"));
                    create(target, path.join("new"));
                };
                assert_eq!(renamed("old", "new", prepare), kept, "{source} to {target}");
            }
        }
    }

    #[test]
    fn failed_rename_leaves_no_new_name() {
        assert_eq!(renamed("old", "new", |_| {}), (Err(Errno::NOENT), Vec::new()));
        let directory = |path: &std::path::Path| fs::create_dir(path.join("old")).unwrap();
        assert_eq!(renamed("old", "old/new", directory), (Err(Errno::INVAL), vec!["old".to_owned()]));
    }
}
