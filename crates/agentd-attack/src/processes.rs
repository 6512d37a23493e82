//! A5, A11, A14, A17: host processes, the supervisor, memory shared with the host or the supervisor, and inotify instances.

use crate::{
    check::{BUG, Check, Facts, Verdict, broken_if, first},
    sys,
};
use agentd_core::Claim::Process;
use std::fs::{self, File, OpenOptions};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a5_see_or_signal_a_host_process", claim: Process, remedy: BUG, run: host_process },
    Check { name: "a5_read_kernel_and_host_secrets_in_proc", claim: Process, remedy: BUG, run: proc_secrets },
    Check { name: "a5_write_kernel_settings", claim: Process, remedy: BUG, run: kernel_settings },
    Check { name: "a11_attack_the_supervisor", claim: Process, remedy: BUG, run: supervisor },
    Check { name: "a11_change_the_scheduling_of_the_supervisor", claim: Process, remedy: BUG, run: scheduling },
    Check { name: "a11_lower_the_out_of_memory_score", claim: Process, remedy: BUG, run: out_of_memory_score },
    Check { name: "a17_exhaust_the_inotify_instances_of_the_user", claim: Process, remedy: BUG, run: inotify_instances },
    Check { name: "a14_share_memory_with_the_host", claim: Process, remedy: BUG, run: shared_memory },
];

/// The maximum pid that is expected in a new PID namespace, in which few processes have run. A smaller pid of the host may also
/// be that of a process in the sandbox, so only the search by name covers such a host process.
const MAX_INNER_PID: i32 = 300;

fn host_process(facts: &Facts) -> Verdict {
    let pid = match facts.get("host_pid") {
        Ok(pid) => pid,
        Err(verdict) => return verdict,
    };
    let marker = match facts.get("host_marker") {
        Ok(marker) => marker,
        Err(verdict) => return verdict,
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Verdict::NotTried("/proc cannot be read".to_owned()) };
    // The same pid names another process in this namespace, so the host process is identified by its name.
    for entry in entries.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim() == marker {
            return Verdict::Broken(format!("sees the host's process {marker}"));
        }
    }
    let mine = fs::read_link("/proc/self").map(|p| p.display().to_string()).unwrap_or_default();
    let foreign = pid.parse().is_ok_and(|pid: i32| pid > MAX_INNER_PID && sys::can_signal(pid, 0)) && mine != pid;
    broken_if(foreign, || format!("can signal {pid}"))
}

fn proc_secrets(_: &Facts) -> Verdict {
    let not_empty = |path: &str| fs::read(path).is_ok_and(|content| !content.is_empty());
    first(
        [
            "/proc/1/environ",
            "/proc/1/maps",
            "/proc/keys",
            "/proc/kallsyms",
            "/proc/timer_list",
            "/proc/cmdline",
            "/proc/sched_debug",
        ]
        .into_iter()
        .map(|path| broken_if(not_empty(path), || format!("read {path}")))
        // Tried only if nothing was read: reading /proc/kmsg blocks until the kernel logs a message.
        .chain(["/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/proc/1/mem"].into_iter().map(|path| {
            // Covered files open as /dev/null, which is empty.
            let mut byte = [0u8; 1];
            let read = File::open(path).and_then(|mut f| std::io::Read::read(&mut f, &mut byte));
            broken_if(read.is_ok_and(|n| n > 0), || format!("read {path}"))
        })),
    )
}

fn kernel_settings(_: &Facts) -> Verdict {
    let files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/user/max_user_namespaces",
        "/proc/self/uid_map",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
    ];
    first(files.map(|path| broken_if(OpenOptions::new().write(true).open(path).is_ok(), || format!("opened {path} for writing"))))
}

fn supervisor(_: &Facts) -> Verdict {
    let mut verdicts = vec![
        broken_if(fs::read_dir("/proc/1/fd").is_ok(), || "listed the supervisor's descriptors".to_owned()),
        broken_if(OpenOptions::new().write(true).open("/proc/1/mem").is_ok(), || "opened the supervisor's memory".to_owned()),
        broken_if(sys::can_set_limits(1), || "set the supervisor's limits".to_owned()),
        broken_if(sys::call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, 1, 0, 0, 0]) == 0, || {
            "traced the supervisor".to_owned()
        }),
    ];
    // From inside its PID namespace, process 1 receives only signals for which it has a handler (`pid_namespaces(7)`). On the
    // host the attempt must not be made.
    if std::os::unix::process::parent_id() < MAX_INNER_PID.unsigned_abs() && fs::read_link("/proc/1/ns/pid").is_err() {
        for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGHUP] {
            sys::can_signal(1, signal);
        }
        // If the signal had killed process 1, the kernel would also have killed this process.
        verdicts.push(Verdict::Held);
    }
    first(verdicts)
}

/// Tries to change the scheduling of process 1. Each call sets the current value. This needs the same permission as a change, and
/// has no effect if allowed.
fn scheduling(_: &Facts) -> Verdict {
    first(
        sys::can_reschedule(1)
            .map(|(call, possible)| broken_if(possible, || format!("changed the scheduling of process 1 by {call}"))),
    )
}

/// Tries to lower the score of this process below the supervisor's: the kernel would then kill the supervisor first.
fn out_of_memory_score(_: &Facts) -> Verdict {
    let path = "/proc/self/oom_score_adj";
    let Some(own) = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok()) else {
        return Verdict::NotTried(format!("{path} cannot be read"));
    };
    first([
        broken_if(own < 1000, || format!("oom_score_adj of the command is {own}")),
        broken_if(fs::write(path, "0").is_ok(), || "lowered oom_score_adj of the command".to_owned()),
    ])
}

/// A quarter of the inotify instances that the kernel allows a host user for all programs together.
const INOTIFY_INSTANCES: usize = 32;

fn inotify_instances(_: &Facts) -> Verdict {
    let made = (0..=INOTIFY_INSTANCES).take_while(|_| sys::call(libc::SYS_inotify_init1, [0; 5]) == 0).count();
    broken_if(made > INOTIFY_INSTANCES, || format!("created {made} inotify instances"))
}

fn shared_memory(facts: &Facts) -> Verdict {
    let id = match facts.get("shm_id").map(str::parse) {
        Ok(Ok(id)) => id,
        Ok(Err(_)) => return Verdict::NotTried("shm_id is not a number".to_owned()),
        Err(verdict) => return verdict,
    };
    let (name, queue) = match (facts.get("shm_file"), facts.get("queue")) {
        (Ok(name), Ok(queue)) => (name, queue),
        (Err(verdict), _) | (_, Err(verdict)) => return verdict,
    };
    first([
        broken_if(sys::can_see_shm(id), || "sees the host's shared memory segment".to_owned()),
        broken_if(fs::metadata(name).is_ok(), || format!("sees {name}")),
        broken_if(sys::can_open_queue(queue), || format!("opened the host's message queue {queue}")),
    ])
}
