//! Targets of a probe's attacks: files, sockets and kernel objects of the host. A killed probe leaves its targets behind; the
//! next probe removes them.

use agentd_attack::Facts;
use agentd_disk::Scratch;
use agentd_log::LogFailure as _;
use rustix::fs::FileType;
use std::{
    ffi::CString,
    fs::{self, Permissions},
    io,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
};

/// The common prefix of all target names.
const PREFIX: &str = "agentd-probe";

/// The directory of shared memory files (`shm_overview(7)`).
const SHARED_MEMORY: &str = "/dev/shm";

/// The targets of one probe. Dropping it removes them.
pub(crate) struct Targets {
    pub facts: Facts,
    pub workspace: PathBuf,
    pub readonly: PathBuf,
    scratch: Scratch,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Targets {
    pub(crate) fn make(work_root: &Path) -> io::Result<Self> {
        fs::create_dir_all(work_root)?;
        let scratch = Scratch::make_with_cleanup(work_root, PREFIX, remove_targets_of).map_err(io::Error::other)?;
        // The mode of the directory must not protect it from a payload, because the probe tests the boundary.
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
        let root = scratch.path().canonicalize()?;
        let unique = scratch.name().to_string_lossy().into_owned();
        let (workspace, readonly) = (root.join("workspace"), root.join("readonly"));
        fs::create_dir(&workspace)?;
        fs::create_dir(&readonly)?;
        let (secret, host_file, unix_path) = (root.join("secret"), root.join("host-file"), root.join("socket"));
        fs::write(readonly.join("file"), "read me")?;
        fs::write(&secret, "secret")?;
        fs::write(&host_file, "host")?;
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&unique)?)?;
        let file = UnixListener::bind(&unix_path)?;
        let shm_file = Path::new(SHARED_MEMORY).join(&unique);
        fs::write(&shm_file, "shared")?;
        let shm_id = make_segment(&unique);
        make_queue(&unique)?;
        let show = |path: &Path| path.display().to_string();
        let facts = Facts::new(
            [
                ("secret_path", show(&secret)),
                ("host_file", show(&host_file)),
                ("unix_path", show(&unix_path)),
                ("workspace", show(&workspace)),
                ("readonly", show(&readonly)),
                ("shm_file", show(&shm_file)),
                ("shm_id", shm_id.to_string()),
                ("queue", unique.clone()),
                ("abstract_name", unique.clone()),
                ("loopback_port", tcp.local_addr()?.port().to_string()),
                ("host_pid", std::process::id().to_string()),
                ("host_marker", own_name()),
                ("env_marker", "PATH".to_owned()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        Ok(Self { facts, workspace, readonly, scratch, _listeners: (tcp, name, file) })
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        remove_targets_of(&self.scratch.name().to_string_lossy());
    }
}

fn own_name() -> String {
    fs::read_to_string("/proc/self/comm").unwrap_or_default().trim().to_owned()
}

/// Removes the targets called `name` outside the scratch directory, if this user owns them.
fn remove_targets_of(name: &str) {
    let own = rustix::process::geteuid().as_raw();
    let file = Path::new(SHARED_MEMORY).join(name);
    let is_own = |found: rustix::fs::Stat| FileType::from_raw_mode(found.st_mode).is_file() && found.st_uid == own;
    if rustix::fs::lstat(&file).is_ok_and(is_own) {
        fs::remove_file(&file).or_debug("remove attack target", &file);
    }
    remove_segment(name, own);
    if let Ok(queue) = CString::new(format!("/{name}")) {
        // SAFETY: the name is a NUL-terminated string that outlives the call.
        if unsafe { libc::mq_unlink(queue.as_ptr()) } != 0 {
            // A failure is ignored: not every kernel supports message queues, and only one attack needs the queue.
            Err::<(), _>(io::Error::last_os_error()).or_debug("remove attack target", &queue);
        }
    }
}

/// Returns the System V key of the target called `name`, derived from the random digits of the name. Never returns `IPC_PRIVATE`.
fn key(name: &str) -> i32 {
    let digits = name.get(name.len().saturating_sub(8)..).unwrap_or_default();
    u32::from_str_radix(digits, 16).map_or(1, |digits| (digits >> 1).max(1).cast_signed())
}

/// Creates a System V shared memory segment (`shmget(2)`) and returns its id, or -1 on failure.
fn make_segment(name: &str) -> i32 {
    // SAFETY: all arguments are integers.
    unsafe { libc::shmget(key(name), 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) }
}

fn remove_segment(name: &str, own: u32) {
    // SAFETY: all arguments are integers.
    let id = unsafe { libc::shmget(key(name), 0, 0) };
    if id < 0 {
        return;
    }
    // SAFETY: `shmid_ds` consists of integers, for which zero bytes are valid.
    let mut status: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: `status` outlives the call and has the type that `IPC_STAT` writes.
    if unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut status) } == 0 && status.shm_perm.cuid == own {
        // SAFETY: `IPC_RMID` ignores the pointer.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// Creates a POSIX message queue (`mq_overview(7)`), if the system supports them.
fn make_queue(name: &str) -> io::Result<()> {
    let queue = CString::new(format!("/{name}"))?;
    // SAFETY: the name is a NUL-terminated string that outlives the call; null attributes select the defaults (`mq_open(3)`).
    let opened =
        unsafe { libc::mq_open(queue.as_ptr(), libc::O_CREAT | libc::O_RDONLY, 0o666, std::ptr::null::<libc::mq_attr>()) };
    if opened >= 0 {
        // SAFETY: `mq_open` returned this descriptor, and nothing else owns it.
        unsafe { libc::mq_close(opened) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists(name: &str) -> [bool; 3] {
        let queue = CString::new(format!("/{name}")).unwrap();
        // SAFETY: the name is a NUL-terminated string that outlives the call.
        let opened = unsafe { libc::mq_open(queue.as_ptr(), libc::O_RDONLY) };
        if opened >= 0 {
            // SAFETY: `mq_open` returned this descriptor, and nothing else owns it.
            unsafe { libc::mq_close(opened) };
        }
        // SAFETY: all arguments are integers.
        let segment = unsafe { libc::shmget(key(name), 0, 0) } >= 0;
        [Path::new(SHARED_MEMORY).join(name).exists(), segment, opened >= 0]
    }

    #[test]
    fn targets_of_killed_probe_are_removed_by_next_probe() {
        let place = tempfile::tempdir().unwrap();
        let name = format!("{PREFIX}-{:016x}", u64::from(std::process::id()) << 20);
        fs::create_dir(place.path().join(&name)).unwrap();
        fs::write(Path::new(SHARED_MEMORY).join(&name), "").unwrap();
        assert!(make_segment(&name) >= 0);
        make_queue(&name).unwrap();
        let made = exists(&name);
        assert!(made[0] && made[1]);
        let next = Targets::make(place.path()).unwrap();
        assert_eq!(exists(&name), [false; 3]);
        let own = next.scratch.name().to_string_lossy().into_owned();
        assert_eq!(exists(&own), made);
        drop(next);
        assert_eq!(exists(&own), [false; 3]);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
