//! The room that one Firecracker runs in, and the two processes that keep it: whatever is killed, nothing of the machine is left.
//!
//! The *warden* is this same program, executed anew. It makes the room — a control group, and namespaces whose process 1 is the
//! *porter*, a fork of it — and removes the machine's folder when the room is empty. The porter shows Firecracker what it is started
//! from, starts it (in its jailer, as root), and ends when that ends, or when the library closes its end of a socket, which it does
//! by dying too. Over that it is told, at most once, which snapshot to show, too: a Firecracker need not know that when it is started. The end of the porter is the end of all in the room (`pid_namespaces(7)`); it comes with the end of the warden
//! (`PR_SET_PDEATHSIG`).

use super::{vitals::METRICS, vm};
use agentd_core::{Layer, LayerError};
use agentd_kernel::{
    cgroup::{Cgroup, CgroupPlan, Controller, Hierarchy},
    idmap::{self, Claim, Identity},
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

/// `argv[0]` of a warden. Its standard input is the socket whose other end the library has; its standard output is the machine's lock; what
/// it and Firecracker say goes to its standard error.
pub(crate) const ROLE: &str = "agentd-warden";

/// What Firecracker's own program and its jailer are called.
pub(super) const FIRECRACKER: &str = "firecracker";
pub(super) const JAILER: &str = "jailer";

/// The jailer puts the name of the program and of the machine between its base and the root; here the base is one machine's alone.
const NAME: &str = "vm";

/// Firecracker's socket, in its root.
pub(super) const API: &str = "api";

/// The longest path of a snapshot that a porter is told (`PATH_MAX`).
const MOST_PATH: usize = 4096;

/// What it answers when that is shown.
pub(super) const SHOWN: &[u8] = b"!";

/// Firecracker's root in a machine's folder, as the jailer has it.
pub(super) fn root(folder: &Path) -> PathBuf {
    folder.join(FIRECRACKER).join(NAME).join("root")
}

/// The socket between a library and a room: a packet each way, and its end.
pub(super) fn socket() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// What a warden is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Room {
    /// The machine's folder. In Firecracker's [`root`] below it is what it writes to.
    pub folder: PathBuf,
    /// The directory with Firecracker's programs.
    pub programs: PathBuf,
    /// Bytes of memory that it and the machine may take.
    pub memory: u64,
    /// What every machine is made of, shown read-only in Firecracker's root.
    pub assets: PathBuf,
}

impl Room {
    /// As arguments.
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

/// What a warden does until the room is empty. This process has one thread.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> i32 {
    // The terminal's Ctrl-C is for the library, which decides what it means.
    rustix::process::setsid().ok();
    let Some(room) = Room::from_args(args) else {
        eprintln!("agentd: a warden is told what its room is");
        return 2;
    };
    let kept = keep(&room);
    // The library does it too, and the next agentd does: whoever lives.
    fs::remove_dir_all(&room.folder).ok();
    match kept {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("agentd: {error}");
            1
        }
    }
}

fn keep(room: &Room) -> Result<(), LayerError> {
    let privileged = rustix::process::geteuid().is_root();
    let claim = if privileged { Some(Claim::take()?) } else { None };
    let user = claim.as_ref().map(|claim| (claim.identity.host_uid, claim.identity.host_gid));
    let mut group = group(room)?;
    let done = occupy(room, privileged, user, group.as_ref());
    let removed = group.as_mut().map_or(Ok(()), |group| {
        group.kill();
        group.remove()
    });
    done.and(removed)
}

/// A group with a limit of memory, where this machine gives one. The machine's own size holds beside it, and is all the limit of processors.
fn group(room: &Room) -> Result<Option<Cgroup>, LayerError> {
    let hierarchy = Hierarchy::detect();
    hierarchy.sweep();
    let memory = hierarchy.has(Controller::Memory).then_some(room.memory);
    let plan = CgroupPlan { memory, ..CgroupPlan::default() };
    if plan.is_empty() { Ok(None) } else { hierarchy.create(&Hierarchy::name(1), &plan).map(Some) }
}

/// Has a porter in the room, and waits until it is empty.
fn occupy(room: &Room, privileged: bool, user: Option<(u32, u32)>, group: Option<&Cgroup>) -> Result<(), LayerError> {
    let (go, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| failed(Layer::Process, "pipe".to_owned(), errno))?;
    // SAFETY: a warden has one thread: it was executed for this, and its libraries start none.
    let cloned = unsafe { namespace::start_apart(privileged, group.and_then(Cgroup::clone_into)) }?;
    let (pid, _pidfd) = match cloned {
        Cloned::Child => {
            drop(tell);
            if let Err(error) = porter(room, privileged, user, group, &go) {
                eprintln!("agentd: {error}");
            }
            // All in the room end with this process.
            std::process::exit(0)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(go);
    let admitted = if privileged { Ok(()) } else { idmap::write_maps(pid, Identity::caller().as_root(), false) };
    if admitted.is_ok() {
        // If it is dead, that is seen next.
        rustix::io::write(&tell, b"!").ok();
    }
    drop(tell);
    let pid = Pid::from_raw(pid).ok_or_else(|| LayerError::new(Layer::Process, "clone3", None))?;
    rustix::process::waitpid(Some(pid), WaitOptions::empty())
        .map_err(|errno| failed(Layer::Process, "wait for the porter".to_owned(), errno))?;
    admitted
}

fn failed(layer: Layer, call: String, errno: Errno) -> LayerError {
    LayerError::new(layer, call, Some(errno.raw_os_error()))
}

/// Process 1 of the room.
fn porter(
    room: &Room,
    privileged: bool,
    user: Option<(u32, u32)>,
    group: Option<&Cgroup>,
    go: &OwnedFd,
) -> Result<(), LayerError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed(Layer::Process, "prctl PR_SET_PDEATHSIG".to_owned(), errno))?;
    // Nothing comes when the warden is dead, or could not let this process in.
    if !matches!(rustix::io::read(go, &mut [0; 1]), Ok(1)) {
        return Ok(());
    }
    if let Some(group) = group {
        group.join()?;
    }
    let root = root(&room.folder);
    furnish(room, &root)?;
    if let Some((uid, gid)) = user {
        give(&root, uid, gid)?;
    }
    let mut child = command(room, &root, privileged, user);
    let mut child = child.spawn().map_err(|error| {
        LayerError::new(Layer::Process, format!("execute {:?}", child.get_program()), error.raw_os_error())
            .remedy("agentd vm fetch-firecracker says where to get it")
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| LayerError::new(Layer::Process, "clone", None))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| failed(Layer::Process, "pidfd_open".to_owned(), errno))?;
    let library = io::stdin();
    let mut told = false;
    while first_of(library.as_fd(), pidfd.as_fd())? {
        let Some(snapshot) = hear(library.as_fd())? else { return Ok(()) };
        if told {
            return Err(LayerError::new(Layer::Process, "a second snapshot for a machine", None));
        }
        told = true;
        show(&snapshot, &root.join(vm::SNAPSHOT))?;
        // The machine's disk has come meanwhile, too.
        if let Some((uid, gid)) = user {
            give(&root, uid, gid)?;
        }
        rustix::net::send(&library, SHOWN, SendFlags::NOSIGNAL)
            .map_err(|errno| failed(Layer::Process, "answer the library".to_owned(), errno))?;
    }
    match child.wait() {
        Ok(status) if !status.success() => Err(LayerError::new(Layer::Process, format!("firecracker: {status}"), None)),
        _ => Ok(()),
    }
}

/// Which snapshot the library says is to be shown; `None` when it is gone.
fn hear(library: BorrowedFd<'_>) -> Result<Option<PathBuf>, LayerError> {
    let mut said = [0; MOST_PATH];
    // One packet is one path; of one that is longer, the whole length is told.
    let (_, length) = rustix::net::recv(library, &mut said[..], RecvFlags::TRUNC)
        .map_err(|errno| failed(Layer::Process, "hear the library".to_owned(), errno))?;
    let said = said.get(..length).ok_or_else(|| LayerError::new(Layer::Process, "the path of a snapshot is too long", None))?;
    Ok((!said.is_empty()).then(|| OsStr::from_bytes(said).into()))
}

/// Waits until the library says something or is gone (true), or Firecracker is (false).
fn first_of(library: BorrowedFd<'_>, firecracker: BorrowedFd<'_>) -> Result<bool, LayerError> {
    loop {
        let mut both = [PollFd::from_borrowed_fd(library, PollFlags::IN), PollFd::from_borrowed_fd(firecracker, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) if !both[0].revents().is_empty() => return Ok(true),
            Ok(_) if !both[1].revents().is_empty() => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(Layer::Process, "poll".to_owned(), errno)),
        }
    }
}

/// Makes Firecracker's root a mount of this process's mounts only, and shows the assets there. The root is shared (`mount_namespaces(7)`): the
/// jailer makes a copy of it that receives what is mounted here later, and sends nothing back.
fn furnish(room: &Room, root: &Path) -> Result<(), LayerError> {
    change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    bind(root, root)?;
    change(root, MountPropagationFlags::SHARED)?;
    show(&room.assets, &root.join(vm::ASSETS))
}

fn change(mount: impl AsRef<Path>, propagation: MountPropagationFlags) -> Result<(), LayerError> {
    let mount = mount.as_ref();
    rustix::mount::mount_change(mount, propagation)
        .map_err(|errno| failed(Layer::Mounts, format!("make {} {propagation:?}", mount.display()), errno))
}

fn bind(source: &Path, at: &Path) -> Result<(), LayerError> {
    rustix::mount::mount_bind(source, at)
        .map_err(|errno| failed(Layer::Mounts, format!("bind {} on {}", source.display(), at.display()), errno))
}

/// Shows a directory in Firecracker's root, read-only. It is made so first, over itself: what is shown is what Firecracker sees at once, in a copy
/// of these mounts that no change of theirs reaches.
fn show(source: &Path, at: &Path) -> Result<(), LayerError> {
    bind(source, source)?;
    // Flags that the source's mount has are kept, which a user namespace insists on.
    let kept =
        rustix::fs::statvfs(source).map_err(|errno| failed(Layer::Mounts, format!("statvfs {}", source.display()), errno))?;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    if kept.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        flags |= MountFlags::NOEXEC;
    }
    rustix::mount::mount_remount(source, flags, "")
        .map_err(|errno| failed(Layer::Mounts, format!("make {} read-only", source.display()), errno))?;
    bind(source, at)
}

/// Gives what Firecracker writes to, which is all that is not shown to it, to the user it runs as.
fn give(root: &Path, uid: u32, gid: u32) -> Result<(), LayerError> {
    let unreadable = |error: io::Error| LayerError::new(Layer::Process, format!("list {}", root.display()), error.raw_os_error());
    let directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(Layer::Process, format!("open {}", root.display()), errno))?;
    for entry in fs::read_dir(root).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(&directory, &name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags) {
            // What is shown read-only stays whose it is.
            Ok(()) | Err(Errno::ROFS) => {}
            Err(errno) => return Err(failed(Layer::Process, format!("chown {}", root.join(&name).display()), errno)),
        }
    }
    Ok(())
}

/// Firecracker, in its jailer as root.
fn command(room: &Room, root: &Path, privileged: bool, user: Option<(u32, u32)>) -> Command {
    let program = room.programs.join(FIRECRACKER);
    let own = ["--api-sock", API, "--level", "Warning", "--metrics-path", METRICS];
    let mut command = match user {
        Some((uid, gid)) if privileged => {
            let mut jailer = Command::new(room.programs.join(JAILER));
            jailer.args(["--id", NAME, "--uid", &uid.to_string(), "--gid", &gid.to_string()]);
            jailer.arg("--exec-file").arg(program).arg("--chroot-base-dir").arg(&room.folder).arg("--").args(own);
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
        Ok(said) => command.stdout(said),
        Err(_) => command.stdout(Stdio::null()),
    };
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_what_its_warden_is_told() {
        let room = Room { folder: "/run/x".into(), programs: "/usr/bin".into(), memory: 1 << 30, assets: "/a b".into() };
        assert_eq!(Room::from_args(room.to_args().into_iter()), Some(room));
        assert_eq!(Room::from_args(["/a".into(), "/b".into(), "x".into(), "/c".into()].into_iter()), None);
        assert_eq!(Room::from_args(["/a".into(), "/b".into(), "1".into()].into_iter()), None);
        assert_eq!(Room::from_args(["/a".into(), "/b".into(), "1".into(), "/c".into(), "/d".into()].into_iter()), None);
    }

    #[test]
    fn a_porter_hears_one_whole_path_or_the_end() {
        let (library, porter) = socket().unwrap();
        let say = |said: &[u8]| rustix::net::send(&library, said, SendFlags::NOSIGNAL).unwrap();
        say(b"/a\xff b");
        assert_eq!(hear(porter.as_fd()).unwrap(), Some(OsStr::from_bytes(b"/a\xff b").into()));
        say(&[b'a'; MOST_PATH]);
        assert!(hear(porter.as_fd()).unwrap().is_some());
        say(&[b'a'; MOST_PATH + 1]);
        hear(porter.as_fd()).unwrap_err();
        drop(library);
        assert_eq!(hear(porter.as_fd()).unwrap(), None);
    }
}
