//! The jail of one Firecracker, and the two processes that keep it, the shim and the jail init. Nothing of the machine is left
//! behind, whichever process is killed.
//!
//! The *shim* is agentd's own program, executed again. It creates the jail: a cgroup, and namespaces whose process 1 is the *jail
//! init*, a fork of the shim. It removes the machine's folder when the jail is empty.
//!
//! The jail init mounts the assets in Firecracker's root and starts Firecracker (in its jailer, if root). It ends when
//! Firecracker ends, or when the library closes its end of the control socket, which also happens if the library dies. The end of
//! the jail init kills every process in the jail (`pid_namespaces(7)`). If the shim dies, the kernel kills the jail init
//! (`PR_SET_PDEATHSIG`).
//!
//! Over the control socket, the library can send the path of one snapshot, which the jail init mounts in Firecracker's root. Thus
//! a Firecracker can be started before its snapshot is known.
//!
//! Shim and jail init write no log. The library captures their standard error and includes its last part in errors.

use super::{
    files::{ASSETS, FIRECRACKER, JAILER, SNAPSHOT},
    metrics_pipe::METRICS,
};
use agentd_core::{Control, ControlError, escape};
use agentd_kernel::{
    cgroup::{Cgroup, CgroupPlan, Controller, Hierarchy},
    idmap::{self, Claim, IdMap},
    namespace::{self, Cloned},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    process::{Pid, Signal, WaitOptions},
};
use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The machine's name for the jailer, which places the root at BASE/PROGRAM/NAME/root. The base directory belongs to one machine
/// only, so the name can be constant.
const NAME: &str = "vm";

/// Firecracker's API socket, in its root.
pub(super) const API: &str = "api";

/// The maximum length of a snapshot's path in bytes (`PATH_MAX`).
const MOST_PATH: usize = 4096;

/// The jail init's answer after it has mounted the snapshot.
pub(super) const SHOWN: &[u8] = b"!";

/// Returns Firecracker's root in a machine's folder, at the jailer's path.
pub(super) fn root(folder: &Path) -> PathBuf {
    folder.join(FIRECRACKER).join(NAME).join("root")
}

/// Creates the control socket between the library and a jail. Each side sends at most one packet; the end of either side is
/// noticed by the other.
pub(super) fn socket() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The arguments of a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jail {
    /// The machine's folder. Firecracker writes only to its [`root`] below this folder.
    pub folder: PathBuf,
    /// The directory with Firecracker's programs.
    pub programs: PathBuf,
    /// The memory limit of Firecracker including the guest, in bytes.
    pub memory: u64,
    /// The directory of assets, which all machines share. It is mounted read-only in Firecracker's root.
    pub assets: PathBuf,
}

impl Jail {
    /// Returns the command line arguments of the shim.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        vec![(&self.folder).into(), (&self.programs).into(), self.memory.to_string().into(), (&self.assets).into()]
    }

    fn from_args(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let folder = args.next()?.into();
        let programs = args.next()?.into();
        let memory = args.next()?.to_str()?.parse().ok()?;
        let assets = args.next()?.into();
        args.next().is_none().then_some(Self { folder, programs, memory, assets })
    }
}

/// Runs the shim until the jail is empty, and returns the exit status. The process must have one thread. Standard input is the
/// control socket to the library, standard output the machine's lock file, and standard error receives the messages of shim and
/// Firecracker.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> i32 {
    // Leave the terminal's session: Ctrl-C goes to the library, which decides how to react. `setsid(2)` fails only for the leader
    // of a process group, which this child process is not.
    rustix::process::setsid().ok();
    let Some(jail) = Jail::from_args(args) else {
        eprintln!("agentd: internal helper: expected FOLDER PROGRAMS MEMORY ASSETS");
        return 2;
    };
    let kept = keep(&jail);
    // The library removes the folder too, and so does the next agentd. The shim does it in case the library has died.
    fs::remove_dir_all(&jail.folder).ok();
    match kept {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("agentd: {}", escape::text(&error.to_string()));
            1
        }
    }
}

fn keep(jail: &Jail) -> Result<(), ControlError> {
    let privileged = rustix::process::geteuid().is_root();
    let claim = if privileged { Some(Claim::take()?) } else { None };
    let user = claim.as_ref().map(|claim| (claim.id_map.host_uid, claim.id_map.host_gid));
    let mut group = group(jail)?;
    let done = occupy(jail, privileged, user, group.as_ref());
    let removed = group.as_mut().map_or(Ok(()), |group| {
        group.kill();
        group.remove()
    });
    done.and(removed)
}

/// Creates a cgroup with a memory limit, if this host allows it. The machine's size bounds the guest's memory too, and is the
/// only limit of CPUs.
fn group(jail: &Jail) -> Result<Option<Cgroup>, ControlError> {
    let hierarchy = Hierarchy::detect();
    hierarchy.sweep();
    let memory = hierarchy.has(Controller::Memory).then_some(jail.memory);
    let plan = CgroupPlan { memory, ..CgroupPlan::default() };
    if plan.is_empty() { Ok(None) } else { hierarchy.create(&Hierarchy::name(1), &plan).map(Some) }
}

/// Starts the jail init and waits until the jail is empty.
fn occupy(jail: &Jail, privileged: bool, user: Option<(u32, u32)>, group: Option<&Cgroup>) -> Result<(), ControlError> {
    let (go, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| failed(Control::Process, "pipe".to_owned(), errno))?;
    // SAFETY: a shim is single-threaded: it was executed as its own process, and its libraries start no threads.
    let cloned = unsafe { namespace::start_apart(privileged, group.and_then(Cgroup::clone_into)) }?;
    let (pid, _pidfd) = match cloned {
        Cloned::Child => {
            drop(tell);
            if let Err(error) = jail_init(jail, privileged, user, group, &go) {
                eprintln!("agentd: {}", escape::text(&error.to_string()));
            }
            // All processes in the jail end with this process.
            std::process::exit(0)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(go);
    let admitted = if privileged { Ok(()) } else { idmap::write_maps(pid, IdMap::caller().as_root(), false) };
    if admitted.is_ok() {
        // A write error means that the jail init is dead, which `waitpid` reports.
        rustix::io::write(&tell, b"!").ok();
    }
    drop(tell);
    let pid = Pid::from_raw(pid).ok_or_else(|| ControlError::new(Control::Process, "clone3 returned an invalid pid", None))?;
    rustix::process::waitpid(Some(pid), WaitOptions::empty())
        .map_err(|errno| failed(Control::Process, "wait for the jail init".to_owned(), errno))?;
    admitted
}

fn failed(layer: Control, call: String, errno: Errno) -> ControlError {
    ControlError::new(layer, call, Some(errno.raw_os_error()))
}

/// Runs process 1 of the jail.
fn jail_init(
    jail: &Jail,
    privileged: bool,
    user: Option<(u32, u32)>,
    group: Option<&Cgroup>,
    go: &OwnedFd,
) -> Result<(), ControlError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed(Control::Process, "prctl PR_SET_PDEATHSIG".to_owned(), errno))?;
    // The read returns no byte if the shim is dead or could not write the id maps.
    if !matches!(rustix::io::read(go, &mut [0; 1]), Ok(1)) {
        return Ok(());
    }
    if let Some(group) = group {
        group.join()?;
    }
    let root = root(&jail.folder);
    furnish(jail, &root)?;
    if let Some((uid, gid)) = user {
        give(&root, uid, gid)?;
    }
    let mut child = command(jail, &root, privileged, user);
    let mut child = child.spawn().map_err(|error| {
        ControlError::caused_by(Control::Process, format!("execute {:?}", child.get_program()), error)
            .remedy("run agentd vm fetch-firecracker to see how to install it")
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| ControlError::new(Control::Process, "clone returned an invalid pid", None))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| failed(Control::Process, "pidfd_open".to_owned(), errno))?;
    let library = io::stdin();
    let mut has_snapshot = false;
    while first_of(library.as_fd(), pidfd.as_fd())? {
        let Some(snapshot) = recv(library.as_fd())? else { return Ok(()) };
        if has_snapshot {
            return Err(ControlError::new(
                Control::Process,
                "mount a snapshot: received a second path, but only one is allowed",
                None,
            ));
        }
        has_snapshot = true;
        show(&snapshot, &root.join(SNAPSHOT))?;
        // The library has created the machine's disk in the meantime; it needs the same owner.
        if let Some((uid, gid)) = user {
            give(&root, uid, gid)?;
        }
        rustix::net::send(&library, SHOWN, SendFlags::NOSIGNAL)
            .map_err(|errno| failed(Control::Process, "send the reply to the library".to_owned(), errno))?;
    }
    match child.wait() {
        Ok(status) if !status.success() => Err(ControlError::new(Control::Process, format!("run Firecracker: {status}"), None)),
        _ => Ok(()),
    }
}

/// Receives the path of the snapshot to mount; `None` if the library has closed the socket.
fn recv(library: BorrowedFd<'_>) -> Result<Option<PathBuf>, ControlError> {
    let mut packet = [0; MOST_PATH];
    // One packet holds one path. With TRUNC, the length of a longer packet is returned in full.
    let (_, length) = rustix::net::recv(library, &mut packet[..], RecvFlags::TRUNC)
        .map_err(|errno| failed(Control::Process, "receive from the library".to_owned(), errno))?;
    let path = packet
        .get(..length)
        .ok_or_else(|| ControlError::new(Control::Process, "receive a snapshot path: longer than PATH_MAX", None))?;
    Ok((!path.is_empty()).then(|| OsStr::from_bytes(path).into()))
}

/// Waits for an event: true for a message or the end of the library, false for the end of Firecracker.
fn first_of(library: BorrowedFd<'_>, firecracker: BorrowedFd<'_>) -> Result<bool, ControlError> {
    loop {
        let mut both = [PollFd::from_borrowed_fd(library, PollFlags::IN), PollFd::from_borrowed_fd(firecracker, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) if !both[0].revents().is_empty() => return Ok(true),
            Ok(_) if !both[1].revents().is_empty() => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(Control::Process, "poll".to_owned(), errno)),
        }
    }
}

/// Makes Firecracker's root a mount point of this mount namespace, and mounts the assets in it. The mount is shared
/// (`mount_namespaces(7)`): the jailer's copy of the mount receives later mounts from here, but propagates nothing back.
fn furnish(jail: &Jail, root: &Path) -> Result<(), ControlError> {
    change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    bind(root, root)?;
    change(root, MountPropagationFlags::SHARED)?;
    show(&jail.assets, &root.join(ASSETS))
}

fn change(mount: impl AsRef<Path>, propagation: MountPropagationFlags) -> Result<(), ControlError> {
    let mount = mount.as_ref();
    rustix::mount::mount_change(mount, propagation).map_err(|errno| {
        failed(Control::Mounts, format!("change the mount propagation of {} to {propagation:?}", mount.display()), errno)
    })
}

fn bind(source: &Path, at: &Path) -> Result<(), ControlError> {
    rustix::mount::mount_bind(source, at)
        .map_err(|errno| failed(Control::Mounts, format!("bind {} on {}", source.display(), at.display()), errno))
}

/// Mounts a directory read-only in Firecracker's root. The directory is first bound onto itself and made read-only there. A mount
/// in Firecracker's root propagates to the jailer's copy at once, and later changes of flags would not.
fn show(source: &Path, at: &Path) -> Result<(), ControlError> {
    bind(source, source)?;
    // Keep the flags of the source's mount: in a user namespace, a remount that clears a locked flag fails
    // (`mount_namespaces(7)`).
    let kept =
        rustix::fs::statvfs(source).map_err(|errno| failed(Control::Mounts, format!("statvfs {}", source.display()), errno))?;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    if kept.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        flags |= MountFlags::NOEXEC;
    }
    rustix::mount::mount_remount(source, flags, "")
        .map_err(|errno| failed(Control::Mounts, format!("remount {} read-only", source.display()), errno))?;
    bind(source, at)
}

/// Changes the owner of the entries of Firecracker's root that Firecracker writes to, to its user. These are all entries except
/// the read-only mounts.
fn give(root: &Path, uid: u32, gid: u32) -> Result<(), ControlError> {
    let unreadable = |error: io::Error| ControlError::caused_by(Control::Process, format!("list {}", root.display()), error);
    let directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(Control::Process, format!("open {}", root.display()), errno))?;
    for entry in fs::read_dir(root).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(&directory, &name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags) {
            // Read-only mounts keep their owner.
            Ok(()) | Err(Errno::ROFS) => {}
            Err(errno) => return Err(failed(Control::Process, format!("chown {}", root.join(&name).display()), errno)),
        }
    }
    Ok(())
}

/// Returns the command that starts Firecracker, in its jailer if root.
fn command(jail: &Jail, root: &Path, privileged: bool, user: Option<(u32, u32)>) -> Command {
    let program = jail.programs.join(FIRECRACKER);
    let own = ["--api-sock", API, "--level", "Warning", "--metrics-path", METRICS];
    let mut command = match user {
        Some((uid, gid)) if privileged => {
            let mut jailer = Command::new(jail.programs.join(JAILER));
            jailer.args(["--id", NAME, "--uid", &uid.to_string(), "--gid", &gid.to_string()]);
            jailer.arg("--exec-file").arg(program).arg("--chroot-base-dir").arg(&jail.folder).arg("--").args(own);
            jailer
        }
        _ => {
            let mut plain = Command::new(program);
            plain.args(["--id", NAME]).args(own).current_dir(root);
            plain
        }
    };
    command.env_clear().stdin(Stdio::null()).process_group(0);
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => command.stdout(stderr),
        Err(_) => command.stdout(Stdio::null()),
    };
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shim_arguments_of_jail_round_trip() {
        let jail = Jail { folder: "/run/x".into(), programs: "/usr/bin".into(), memory: 1 << 30, assets: "/a b".into() };
        assert_eq!(Jail::from_args(jail.to_args().into_iter()), Some(jail));
        assert_eq!(Jail::from_args(["/a".into(), "/b".into(), "x".into(), "/c".into()].into_iter()), None);
        assert_eq!(Jail::from_args(["/a".into(), "/b".into(), "1".into()].into_iter()), None);
        assert_eq!(Jail::from_args(["/a".into(), "/b".into(), "1".into(), "/c".into(), "/d".into()].into_iter()), None);
    }

    #[test]
    fn jail_init_receives_one_path_or_end_of_socket() {
        let (library, init) = socket().unwrap();
        let send = |packet: &[u8]| rustix::net::send(&library, packet, SendFlags::NOSIGNAL).unwrap();
        send(b"/a\xff b");
        assert_eq!(recv(init.as_fd()).unwrap(), Some(OsStr::from_bytes(b"/a\xff b").into()));
        send(&[b'a'; MOST_PATH]);
        assert!(recv(init.as_fd()).unwrap().is_some());
        send(&[b'a'; MOST_PATH + 1]);
        recv(init.as_fd()).unwrap_err();
        drop(library);
        assert_eq!(recv(init.as_fd()).unwrap(), None);
    }
}
