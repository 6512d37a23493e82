//! A6, A8, A15: privileges that a command keeps, and resources that it inherits from the process that creates the sandbox.

use crate::{
    check::{BUG, Check, Facts, Verdict, broken_if, first},
    sys,
};
use agentd_core::Claim::Process;
use std::fs;

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a6_keep_a_capability", claim: Process, remedy: BUG, run: capabilities },
    Check { name: "a6_run_as_root_of_the_host", claim: Process, remedy: BUG, run: root_of_host },
    Check { name: "a6_create_a_device_node", claim: Process, remedy: BUG, run: root_disk },
    Check { name: "a6_find_set_id_programs_or_devices", claim: Process, remedy: BUG, run: mounts },
    Check { name: "a6_leave_a_set_id_program_in_the_workspace", claim: Process, remedy: BUG, run: crate::set_id::leave },
    Check { name: "a8_start_in_a_directory_outside", claim: Process, remedy: BUG, run: working_directory },
    Check { name: "a8_inherit_a_descriptor", claim: Process, remedy: BUG, run: descriptors },
    Check { name: "a8_inherit_the_environment", claim: Process, remedy: BUG, run: environment },
    Check { name: "a8_reach_the_hosts_terminal", claim: Process, remedy: BUG, run: terminal },
    Check { name: "a15_dump_core_or_crash_into_the_host", claim: Process, remedy: BUG, run: core },
];

fn status(key: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

fn capabilities(facts: &Facts) -> Verdict {
    // Root in the sandbox's own root file system keeps some capabilities. Other sandboxes keep none.
    let allowed = facts.get("capabilities").ok().and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    let sets = [("CapInh", 0), ("CapPrm", allowed), ("CapEff", allowed), ("CapBnd", allowed), ("CapAmb", 0)];
    first(sets.map(|(set, allowed)| match status(set).map(|value| u64::from_str_radix(&value, 16)) {
        Some(Ok(value)) => broken_if(value & !allowed != 0, || format!("{set} is {value:#x}")),
        _ => Verdict::NotTried("/proc/self/status cannot be read".to_owned()),
    }))
}

fn root_of_host(facts: &Facts) -> Verdict {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return Verdict::NotTried("uid_map cannot be read".to_owned()) };
    let outside: Vec<&str> = map.lines().filter_map(|line| line.split_ascii_whitespace().nth(1)).collect();
    first([
        // In a separate machine, the sandbox's root has uid 0 of that machine, but not its capabilities.
        broken_if(outside.contains(&"0") && !facts.has_own_machine(), || {
            "the user of the command is mapped to root of the host".to_owned()
        }),
        broken_if(status("NoNewPrivs").as_deref() != Some("1"), || "no_new_privs is not set".to_owned()),
    ])
}

/// Single device nodes whose mounts may lack `nosuid` and `nodev`, because the nodes are harmless. Entries of `/proc` are covered
/// by `/dev/null`.
const NODES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

fn mounts(_: &Facts) -> Verdict {
    let Ok(list) = fs::read_to_string("/proc/self/mountinfo") else {
        return Verdict::NotTried("/proc/self/mountinfo cannot be read".to_owned());
    };
    first(list.lines().map(|line| {
        // Fields 5 and 6: the mount point, and options of this mount (`proc_pid_mountinfo(5)`).
        let mut fields = line.split(' ').skip(4);
        let (Some(point), Some(options)) = (fields.next(), fields.next()) else {
            return Verdict::NotTried(format!("unexpected line in /proc/self/mountinfo: '{line}'"));
        };
        let lacks = |wanted| !options.split(',').any(|option| option == wanted);
        let node = NODES.contains(&point) || point.starts_with("/proc/");
        // Terminals are devices, so `/dev/pts` may lack `nodev`.
        let weak = !node && (lacks("nosuid") || lacks("nodev") && point != "/dev/pts");
        broken_if(weak, || format!("{point} is mounted {options}"))
    }))
}

fn descriptors(_: &Facts) -> Verdict {
    // Descriptors 3 and 4 are the pipe of the runner, 5 is the directory listing.
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Verdict::NotTried("/proc/self/fd cannot be read".to_owned()) };
    let foreign = entries.flatten().filter_map(|entry| {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?.display().to_string();
        let own = number <= 2 || target.starts_with("pipe:") || target.contains("/fd") || target.starts_with("/proc/");
        (!own).then(|| format!("{number} -> {target}"))
    });
    foreign.into_iter().next().map_or(Verdict::Held, |what| Verdict::Broken(format!("inherited descriptor {what}")))
}

fn environment(facts: &Facts) -> Verdict {
    match facts.get("env_marker") {
        Ok(marker) => broken_if(std::env::var_os(marker).is_some(), || {
            format!("inherited the variable {marker} of the process that created the sandbox")
        }),
        Err(verdict) => verdict,
    }
}

fn terminal(_: &Facts) -> Verdict {
    broken_if(fs::File::open("/dev/tty").is_ok(), || "opened the controlling terminal".to_owned())
}

fn core(_: &Facts) -> Verdict {
    // With a limit of 1 the kernel does not run the host's crash handler; with 0 it does (`core(5)`).
    first([
        broken_if(sys::core_limit() > 1, || "the core file size limit is above 1 byte".to_owned()),
        broken_if(sys::can_lower_core_limit(), || {
            "the core file size limit can be set to 0, so a crash runs the host's crash handler".to_owned()
        }),
    ])
}

fn root_disk(_: &Facts) -> Verdict {
    let devices = [("a block device", libc::S_IFBLK, 0xfe00), ("the kernel's memory", libc::S_IFCHR, 0x101)];
    first(["/tmp", "/dev/shm", "/dev"].into_iter().flat_map(|dir| {
        devices.map(|(what, kind, number)| {
            let path = format!("{dir}/agentd-attack-device-{}", std::process::id());
            let made = sys::mknod(&path, kind, number);
            if made {
                // Cleaning up changes no verdict.
                fs::remove_file(&path).ok();
            }
            broken_if(made, || format!("created {what} in {dir}"))
        })
    }))
}

fn working_directory(_: &Facts) -> Verdict {
    match std::env::current_dir() {
        // The kernel shows a path outside the root as "(unreachable)…".
        Ok(path) => broken_if(!path.is_absolute(), || format!("the working directory {} is outside the root", path.display())),
        Err(error) => Verdict::NotTried(format!("getcwd: {error}")),
    }
}
