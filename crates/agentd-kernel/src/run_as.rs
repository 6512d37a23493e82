//! File access with the rights of another user, in a dedicated thread: the kernel keeps file system ids and capabilities per
//! thread (`setfsuid(2)`, `credentials(7)`).

use crate::syscall;
use rustix::io::Errno;
use std::{io, thread};

/// Starts a thread that runs `work` with the file access rights of `user` and `group` only. The thread has no supplementary
/// groups and no capabilities, so that it can access only the files that this user can access.
///
/// If this process is not root, the thread keeps the ids of this process, whatever `user` and `group` are. If the thread cannot
/// change its ids, `work` still runs and receives the error. In that case, `work` must not access files.
///
/// # Errors
/// The error of starting the thread.
pub fn start<T: Send + 'static>(
    (user, group): (u32, u32),
    work: impl FnOnce(Result<(), Errno>) -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name("run-as".to_owned()).spawn(move || work(become_user(user, group)))
}

fn become_user(user: u32, group: u32) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::thread::set_thread_groups(&[])?;
    syscall::credentials::set_fs_ids(user, group)?;
    syscall::credentials::set_capabilities(0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::MetadataExt, os::unix::fs::PermissionsExt};

    #[test]
    fn thread_run_as_user_has_only_the_rights_of_that_user() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (own, foreign) = (dir.path().join("own"), dir.path().join("foreign"));
        fs::create_dir(&own).unwrap();
        fs::write(&foreign, "secret").unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o600)).unwrap();
        if !rustix::process::geteuid().is_root() {
            assert_eq!(start((0, 0), move |became| (became, fs::read(foreign).is_ok())).unwrap().join().unwrap(), (Ok(()), true));
            return;
        }
        std::os::unix::fs::chown(&own, Some(4321), Some(4322)).unwrap();
        let (made, secret) = (own.join("made"), foreign.clone());
        let done = move |became: Result<(), Errno>| {
            became.unwrap();
            fs::write(&made, "x").unwrap();
            (fs::metadata(&made).unwrap().uid(), fs::metadata(&made).unwrap().gid(), fs::read(secret).is_err())
        };
        assert_eq!(start((4321, 4322), done).unwrap().join().unwrap(), (4321, 4322, true));
        // Without capabilities, root cannot enter the directory of another user.
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(start((0, 0), move |_| fs::read_dir(own).is_err()).unwrap().join().unwrap());
        assert_eq!(fs::read(foreign).unwrap(), b"secret");
    }
}
