//! The jail of one Firecracker, and the two processes that maintain it, the shim and the jail init. No process or mount of the
//! machine is left behind, whichever process is killed.
//!
//! The *shim* is agentd's own program, executed again. It creates the jail: a cgroup, and namespaces whose process 1 is the *jail
//! init*, a fork of the shim. It removes the machine's folder when the jail is empty.
//!
//! The jail init mounts the assets in Firecracker's root and starts Firecracker (as root, through Firecracker's jailer). It ends
//! when Firecracker ends, or when the library closes its end of the control socket, which also happens if the library dies. The
//! end of the jail init kills every process in the jail (`pid_namespaces(7)`). If the shim dies, the kernel kills the jail init
//! (`PR_SET_PDEATHSIG`).
//!
//! Over the control socket, the library can send the path of one snapshot, which the jail init mounts in Firecracker's root. A
//! Firecracker can therefore be started before its snapshot is known.
//!
//! Shim and jail init write no log. The library captures their standard error and includes its last part in errors.

mod init;
mod mounts;

use super::files::FIRECRACKER;
use agentd_core::{Control, ControlError, escape};
use agentd_kernel::{
    cgroup::{Cgroup, CgroupPlan, Controller, Hierarchy},
    idmap::{self, IdLease, IdMap},
    namespace::{self, Cloned},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
    process::{Pid, WaitOptions},
};
use std::{
    ffi::OsString,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The machine's name for the jailer, which creates the root BASE/PROGRAM/NAME/root. Each machine has its own base directory, so
/// the name is constant.
const NAME: &str = "vm";

/// Firecracker's API socket, in its root.
pub(super) const API: &str = "api";

/// The jail init's answer after it has mounted the snapshot.
pub(super) const SHOWN: &[u8] = b"!";

/// Returns Firecracker's root in a machine's folder, at the jailer's path.
pub(super) fn root(folder: &Path) -> PathBuf {
    folder.join(FIRECRACKER).join(NAME).join("root")
}

/// Creates the control socket between the library and a jail. Each side sends at most one packet, and notices the end of the
/// other side.
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
    let kept = run_shim(&jail);
    // The library and the next agentd also remove the folder. The shim removes it in case the library has died.
    fs::remove_dir_all(&jail.folder).ok();
    match kept {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("agentd: {}", escape::text(&error.to_string()));
            1
        }
    }
}

fn run_shim(jail: &Jail) -> Result<(), ControlError> {
    let privileged = rustix::process::geteuid().is_root();
    let lease = if privileged { Some(IdLease::take()?) } else { None };
    let user = lease.as_ref().map(|lease| (lease.id_map.host_uid, lease.id_map.host_gid));
    let mut group = group(jail)?;
    let done = start_jail_init(jail, privileged, user, group.as_ref());
    let removed = group.as_mut().map_or(Ok(()), |group| {
        group.kill();
        group.remove()
    });
    done.and(removed)
}

/// Creates a cgroup with a memory limit, if this host allows it. The size of the machine also bounds the guest's memory, and
/// alone bounds the number of CPUs.
fn group(jail: &Jail) -> Result<Option<Cgroup>, ControlError> {
    let hierarchy = Hierarchy::detect();
    hierarchy.sweep();
    let memory = hierarchy.has(Controller::Memory).then_some(jail.memory);
    let plan = CgroupPlan { memory, ..CgroupPlan::default() };
    if plan.is_empty() { Ok(None) } else { hierarchy.create(&Hierarchy::name(1), &plan).map(Some) }
}

/// Starts the jail init and waits until the jail is empty.
fn start_jail_init(jail: &Jail, privileged: bool, user: Option<(u32, u32)>, group: Option<&Cgroup>) -> Result<(), ControlError> {
    let (go, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| failed(Control::Process, "pipe".to_owned(), errno))?;
    // SAFETY: a shim is single-threaded: it was executed as its own process, and its libraries start no threads.
    let cloned = unsafe { namespace::start_apart(privileged, group.and_then(Cgroup::clone_into)) }?;
    let (pid, _pidfd) = match cloned {
        Cloned::Child => {
            drop(tell);
            if let Err(error) = init::run(jail, privileged, user, group, &go) {
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

fn failed(control: Control, call: String, errno: Errno) -> ControlError {
    ControlError::new(control, call, Some(errno.raw_os_error()))
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
}
