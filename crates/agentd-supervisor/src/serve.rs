//! The loop of a confined supervisor: starts commands, reaps processes, ends process trees and reports events. It is
//! single-threaded, with one `poll` for all events.

use crate::{
    channel::{Channel, ChannelError},
    oom::OomScore,
    protocol::{Event, ExecUsage, Request, SpawnRequest, SpawnStep},
    spawn::{self, PreparedCommand, Program, Stack},
    sweep,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    pty::OpenptFlags,
};
use std::{
    collections::{HashMap, HashSet},
    ffi::{CString, OsStr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::{Duration, Instant},
};

/// Interval between two checks of the process limit, where no cgroup counts processes.
const LIMIT_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The resources of a supervisor.
pub struct Supervisor {
    /// The channel to the library.
    pub channel: Channel,
    /// Readable when a child has changed state, or when the launcher asks the supervisor to end.
    pub signals: OwnedFd,
    /// The supervisor's out-of-memory score; commands have a different score.
    pub score: OomScore,
    /// True if the supervisor is process 1 of a PID namespace.
    pub namespaced: bool,
    /// See [`crate::plan::SandboxPlan::process_rlimit`].
    pub watch_processes: bool,
}

struct Leader {
    id: u32,
    process_limit: bool,
    /// The time at which the supervisor ends the command, unless the library does so earlier.
    deadline: Option<Instant>,
}

/// Serves requests until the library is gone or the launcher ends the supervisor.
pub fn serve(mut supervisor: Supervisor) {
    let mut leaders: HashMap<i32, Leader> = HashMap::new();
    let mut stack = Stack::new();
    while let Ok(true) = step(&mut supervisor, &mut leaders, &mut stack) {}
    if supervisor.namespaced {
        sweep::kill_namespace();
    } else {
        sweep::kill_orphans(&HashSet::new(), |_| ());
    }
    sweep::reap_all();
}

fn step(supervisor: &mut Supervisor, leaders: &mut HashMap<i32, Leader>, stack: &mut Stack) -> Result<bool, ChannelError> {
    let looks = supervisor.watch_processes && !leaders.is_empty();
    let now = Instant::now();
    let deadline = leaders.values().filter_map(|leader| leader.deadline).min();
    let max_wait =
        deadline.map(|at| at.saturating_duration_since(now)).into_iter().chain(looks.then_some(LIMIT_CHECK_INTERVAL)).min();
    let timeout = max_wait.and_then(|max_wait| Timespec::try_from(max_wait).ok());
    let mut ready = [PollFd::new(&supervisor.channel, PollFlags::IN), PollFd::new(&supervisor.signals, PollFlags::IN)];
    match poll(&mut ready, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let [requests, signals] = [!ready[0].revents().is_empty(), !ready[1].revents().is_empty()];
    let overdue: Vec<i32> =
        leaders.iter().filter(|(_, l)| l.deadline.is_some_and(|at| at <= Instant::now())).map(|(pid, _)| *pid).collect();
    for pid in overdue {
        end(supervisor.namespaced, pid, leaders.len() == 1);
        if let Some(leader) = leaders.get_mut(&pid) {
            leader.deadline = None;
        }
    }
    if looks && at_process_limit() {
        for (pid, leader) in leaders.iter_mut() {
            leader.process_limit = true;
            end(supervisor.namespaced, *pid, true);
        }
    }
    if signals {
        if asked_to_end(supervisor.signals.as_fd()) {
            return Ok(false);
        }
        reap(supervisor, leaders)?;
    }
    if requests {
        supervisor.channel.fill()?;
        while let Some((request, fds)) = supervisor.channel.buffered::<Request>()? {
            handle(supervisor, leaders, stack, request, fds)?;
        }
    }
    Ok(true)
}

/// Returns true if the kernel refuses another process to this user (`fork(2)`, `EAGAIN` because of `RLIMIT_NPROC`).
fn at_process_limit() -> bool {
    // SAFETY: the child only exits, and shares no memory with this process.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) };
    if pid == 0 {
        // SAFETY: ends the child without running exit handlers of the parent.
        unsafe { libc::_exit(0) };
    }
    pid < 0
}

/// Drains the signal descriptor. Returns true after SIGTERM, with which the launcher asks the supervisor to end.
fn asked_to_end(signals: BorrowedFd<'_>) -> bool {
    let mut end = false;
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(signals, &mut info) == Ok(info.len()) {
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        end |= number == libc::SIGTERM.unsigned_abs();
    }
    end
}

fn reap(supervisor: &mut Supervisor, leaders: &mut HashMap<i32, Leader>) -> Result<(), ChannelError> {
    loop {
        let mut status = 0;
        // SAFETY: all-zero is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values of the right type.
        let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if pid <= 0 {
            return Ok(());
        }
        let Some(leader) = leaders.remove(&pid) else { continue };
        let mut used = counted(&usage);
        // Processes that the leader left behind no longer belong to an exec.
        let others: HashSet<i32> = leaders.keys().copied().collect();
        if supervisor.namespaced && others.is_empty() {
            // Process 1 adopts all orphans, so without children it is the only process.
            if sweep::has_children() {
                sweep::kill_namespace();
                reap_rest(&mut used);
            }
        } else {
            sweep::kill_orphans(&others, |usage| used.add(counted(usage)));
        }
        supervisor
            .channel
            .send(&Event::Ended { id: leader.id, status, usage: used, process_limit: leader.process_limit }, &[])?;
    }
}

/// Reaps the processes that were just killed, and adds their usage to `used`.
fn reap_rest(used: &mut ExecUsage) {
    loop {
        // SAFETY: all-zero is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: a null status pointer is allowed; `usage` is live.
        if unsafe { libc::wait4(-1, std::ptr::null_mut(), 0, &raw mut usage) } <= 0 {
            return;
        }
        used.add(counted(&usage));
    }
}

fn counted(usage: &libc::rusage) -> ExecUsage {
    let micros = |t: libc::timeval| u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0);
    ExecUsage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }
}

/// Kills a leader's tree. The leader's end is then reaped and reported like any other.
fn end(namespaced: bool, pid: i32, alone: bool) {
    if namespaced && alone {
        sweep::kill_namespace();
    } else {
        sweep::kill_tree(pid);
    }
}

fn handle(
    supervisor: &mut Supervisor,
    leaders: &mut HashMap<i32, Leader>,
    stack: &mut Stack,
    request: Request,
    fds: Vec<OwnedFd>,
) -> Result<(), ChannelError> {
    match request {
        Request::Exec(exec) => {
            let id = exec.id;
            let deadline = exec.wall_ms.and_then(|wall| Instant::now().checked_add(Duration::from_millis(wall)));
            let started = supervisor.score.start_expendable(|| start(stack, exec, fds));
            match started.unwrap_or_else(|errno| Err((SpawnStep::Fork, errno.raw_os_error()))) {
                Ok((pid, terminal)) => {
                    leaders.insert(pid, Leader { id, process_limit: false, deadline });
                    if let Some(terminal) = terminal {
                        supervisor.channel.send(&Event::Terminal { id }, &[terminal.as_fd()])?;
                    }
                }
                Err((step, errno)) => supervisor.channel.send(&Event::SpawnFailed { id, errno, step }, &[])?,
            }
        }
        Request::Signal { id, signal } => {
            if let Some((pid, _)) = leaders.iter().find(|(_, leader)| leader.id == id) {
                // SAFETY: integer arguments. The leader is not reaped yet, so its process group id has not been reused.
                unsafe { libc::kill(-pid, signal) };
            }
        }
        Request::End { id } => {
            let found = leaders.iter().find(|(_, leader)| leader.id == id).map(|(pid, _)| *pid);
            if let Some(pid) = found {
                end(supervisor.namespaced, pid, leaders.len() == 1);
            }
        }
        Request::Open { id, path, write } => {
            let flags = if write { OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC } else { OFlags::RDONLY };
            // Opened non-blocking, so that a FIFO at the path cannot block the supervisor.
            let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
            send_opened(supervisor, id, rustix::fs::open(OsStr::from_bytes(&path), flags, Mode::from(0o644)))?;
        }
        Request::Socket { id, v6, udp } => {
            let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
            let kind = if udp { SocketType::DGRAM } else { SocketType::STREAM };
            send_opened(supervisor, id, socket_with(family, kind, SocketFlags::CLOEXEC, None))?;
        }
    }
    Ok(())
}

fn send_opened(supervisor: &Supervisor, id: u32, opened: Result<OwnedFd, Errno>) -> Result<(), ChannelError> {
    match opened {
        Ok(opened) => supervisor.channel.send(&Event::Opened { id, errno: 0 }, &[opened.as_fd()]),
        Err(errno) => supervisor.channel.send(&Event::Opened { id, errno: errno.raw_os_error() }, &[]),
    }
}

type StartedLeader = (i32, Option<OwnedFd>);

fn start(stack: &mut Stack, exec: SpawnRequest, mut fds: Vec<OwnedFd>) -> Result<StartedLeader, (SpawnStep, i32)> {
    let invalid = |_| (SpawnStep::Exec, libc::EINVAL);
    let strings = |list: Vec<Vec<u8>>| list.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(invalid);
    let argv = strings(exec.argv)?;
    let env = strings(exec.env)?;
    let program = match argv.first() {
        Some(_) if exec.own_image => Program::Image(fds.pop().ok_or((SpawnStep::Exec, libc::EBADF))?),
        Some(program) => Program::Candidates(spawn::candidates(program, &env)),
        None => return Err((SpawnStep::Exec, libc::EINVAL)),
    };
    let cwd = CString::new(exec.cwd).map_err(invalid)?;
    let prepared = PreparedCommand { program, argv, env, cwd, rlimits: exec.rlimits, terminal: exec.pty.is_some() };
    if let Some(size) = exec.pty {
        let (master, peer) = terminal(size).map_err(|errno| (SpawnStep::Fork, errno.raw_os_error()))?;
        let stdin = fds.first().unwrap_or(&peer);
        let pid = spawn::start(&prepared, [stdin.as_fd(), peer.as_fd(), peer.as_fd()], stack)?;
        return Ok((pid, Some(master)));
    }
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| (SpawnStep::Fork, libc::EBADF))?;
    let pid = spawn::start(&prepared, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()], stack)?;
    Ok((pid, None))
}

/// Opens a new terminal in the sandbox's own devpts. Returns its master and peer descriptors.
fn terminal((rows, cols): (u16, u16)) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&peer, size)?;
    Ok((master, peer))
}
