//! Tests of the refusal of grants that overlap agentd's own folders.

use super::*;
use std::path::PathBuf;

fn grant(path: &Path, access: Access) -> Grant {
    Grant::new(path, access)
}

fn refused(path: &Path, access: Access, own: &Path) -> Option<String> {
    check(&[grant(path, access)], &[own]).err().map(|error| error.to_string())
}

#[test]
fn grant_that_contains_a_folder_or_lies_in_one_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let own = root.join("share/agentd");
    std::fs::create_dir_all(own.join("sandboxes")).unwrap();
    std::fs::create_dir_all(root.join("share/other")).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        for path in [root.clone(), root.join("share"), own.clone(), own.join("sandboxes")] {
            let error = refused(&path, access, &own).unwrap();
            assert!(error.contains(&format!("{}", own.display())) && error.contains("does not overlap it"), "{error}");
        }
        assert_eq!(refused(&root.join("share/other"), access, &own), None);
    }
}

#[test]
fn backend_folder_that_does_not_exist_is_refused_in_a_writable_grant_only() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("share/agentd");
    assert!(refused(root.path(), Access::ReadWrite, &own).is_some());
    assert_eq!(refused(root.path(), Access::ReadOnly, &own), None);
}

#[test]
fn grant_through_a_link_to_a_folder_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("agentd");
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::symlink("agentd", root.path().join("link")).unwrap();
    assert!(refused(&root.path().join("link"), Access::ReadOnly, &own).is_some());
    // The folder may also be named through a link.
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.path(), elsewhere.path().join("link")).unwrap();
    assert!(refused(root.path(), Access::ReadOnly, &elsewhere.path().join("link/agentd")).is_some());
}

#[test]
fn executable_in_a_writable_grant_is_protected() {
    let executable = std::fs::read_link("/proc/self/exe").unwrap();
    let parent = executable.parent().unwrap();
    let mut grants = vec![grant(parent, Access::ReadWrite), grant(parent, Access::ReadOnly)];
    executable::protect(&mut grants).unwrap();
    assert_eq!(grants[0].protect, [PathBuf::from(executable.file_name().unwrap())]);
    assert_eq!(grants[1].protect, [] as [PathBuf; 0]);
}
