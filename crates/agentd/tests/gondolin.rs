//! Processes, sockets and disks that a machine of Gondolin could leave behind, and properties that only Gondolin has.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/protected.rs"]
mod protected;
#[path = "gondolin/snapshots.rs"]
mod snapshots;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{GondolinBackend, IsolationBackend, IsolationError, Sandbox, SandboxSpec};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions},
};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use support::{TIMEOUT, gondolin, inventory::Inventory, out, run_one_at_a_time, sh, trial};

/// `argv[1]` of a process that creates machines until it is killed.
const VICTIM: &str = "--make-machines-until-killed";

/// `argv[1]` of a process that creates one sandbox, as the next run of agentd would.
const NEXT: &str = "--make-one-sandbox";

/// The number of kills, each at another moment.
const KILLS: u32 = 20;

fn main() {
    agentd::isolation::take_role();
    match std::env::args().nth(1).as_deref() {
        Some(VICTIM) => victim(),
        Some(NEXT) => next(),
        _ => {}
    }
    // Orphans become children of this process, so that all of them are counted.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let trials = vec![
        trial("parent_killed_at_any_moment_leaves_no_machine".to_owned(), killed_parents),
        trial("killed_node_or_qemu_makes_machine_lost_and_leaves_nothing".to_owned(), killed_host_sides),
        trial("kvm_is_used_only_after_successful_trial".to_owned(), accelerators),
        trial("exhausted_guest_memory_or_disk_does_not_end_machine".to_owned(), used_up),
        trial("qemu_has_cgroup_limits".to_owned(), limited),
        trial("file_name_that_is_not_utf8_never_reaches_another_file".to_owned(), strange_names),
        trial("snapshot_of_stopped_guest_fails_and_leaves_nothing".to_owned(), snapshots::stopped_guest),
        trial("programs_on_payload_disk_are_not_executed_at_start".to_owned(), snapshots::payload_disk_not_executed),
        trial("snapshots_are_removed_with_sandbox".to_owned(), snapshots::removed_with_sandbox),
        trial("dropped_machine_leaves_nothing".to_owned(), dropped),
        trial("machine_that_does_not_start_in_time_is_started_again".to_owned(), stalled_start),
        trial("large_file_is_copied_unchanged_in_little_memory".to_owned(), large_file),
        trial("changes_of_protected_paths_in_machine_are_reported_by_command_line".to_owned(), async || {
            protected::assert_changes_are_reported(GondolinBackend::NAME, &support::data(), &[]);
        }),
        trial("missing_installation_error_names_setup_command".to_owned(), not_installed),
    ];
    run_one_at_a_time(trials)
}

/// Returns temporary files of Gondolin and QEMU, by the prefixes of their names.
fn temporary() -> BTreeSet<PathBuf> {
    let list = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let made = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ["gondolin", "vl.", "qemu"].iter().any(|start| name.starts_with(start))
    };
    ["/tmp", "/var/tmp", "/dev/shm", "/root/.cache"].into_iter().flat_map(list).filter(made).collect()
}

#[derive(Debug)]
struct Before {
    inventory: Inventory,
    temporary: BTreeSet<PathBuf>,
    /// The number of children of this process: the launcher.
    children: usize,
}

impl Before {
    fn take() -> Self {
        Self { inventory: Inventory::take(), temporary: temporary(), children: children().len() }
    }

    /// Waits until the host is in the same state as before.
    fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            for child in children().into_iter().skip(self.children) {
                // Reap only zombies of this test.
                rustix::process::waitpid(Pid::from_raw(child), WaitOptions::NOHANG).ok();
            }
            let (now, files) = (Inventory::take(), temporary());
            let added: Vec<_> = files.difference(&self.temporary).chain(now.files.difference(&self.inventory.files)).collect();
            // Every descendant is by now a child of this process, or dead. Groups are not compared: there are none without
            // limits.
            let same = now.descriptors <= self.inventory.descriptors && now.mounts <= self.inventory.mounts;
            if same && added.is_empty() && children().len() <= self.children {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind: {} descriptors, {} mounts, {added:?}, children {:?}; before: {self:?}",
                now.descriptors,
                now.mounts,
                children()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Returns the children of this process.
fn children() -> Vec<i32> {
    let mut all: Vec<i32> = fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect();
    all.sort_unstable();
    all
}

/// Returns the descendant of this process whose command line contains `needle`.
fn descendant(needle: &str) -> Option<Pid> {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let own = i32::try_from(std::process::id()).unwrap();
    let below = |mut pid: i32| loop {
        match parent(pid) {
            Some(above) if above == own => return true,
            Some(above) if above > 1 => pid = above,
            _ => return false,
        }
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(needle) && below(*pid)
    });
    found.and_then(Pid::from_raw)
}

async fn machine() -> Arc<dyn Sandbox> {
    gondolin().create_sandbox(SandboxSpec::default()).await.unwrap()
}

/// Creates a sandbox, so that the launcher and descriptors that are opened once exist.
async fn warm_up() {
    let sandbox = machine().await;
    sh(&sandbox, ":").await;
    sandbox.destroy().await.unwrap();
}

fn victim() -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        loop {
            let sandbox = machine().await;
            sh(&sandbox, "sleep 1000 & setsid sleep 1000 & head -c 20M /dev/urandom >/kept").await;
            sandbox.snapshot("kept").await.unwrap();
            sandbox.destroy().await.unwrap();
        }
    })
}

/// Creates and destroys one sandbox, as the next run of agentd would.
fn next() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // The next machine removes leftover snapshots.
        let sandbox = machine().await;
        sandbox.destroy().await.unwrap();
    });
    std::process::exit(0)
}

async fn killed_parents() {
    let before = Before::take();
    for number in 0..KILLS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .arg(VICTIM)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moments cover creation, use and destruction of the first machine, and the start of the second.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 500));
        if number % 3 == 2 {
            // Kill the launcher first, so that no process is left that could clean up.
            let pid = victim.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            for launcher in children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
                rustix::process::kill_process(launcher, Signal::KILL).ok();
            }
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        if number % 3 == 2 || snapshots::store().exists() {
            assert!(Command::new(std::env::current_exe().unwrap()).arg(NEXT).status().unwrap().success());
            assert!(!snapshots::store().exists());
        }
        before.settle();
    }
}

async fn killed_host_sides() {
    warm_up().await;
    let before = Before::take();
    for program in ["/tmp/machine.mjs", "name=agentd,bus=virtio-serial0.0"] {
        let sandbox = machine().await;
        let running = {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.exec(support::script("sleep 1000")).await })
        };
        sh(&sandbox, ":").await;
        let victim = descendant(program).unwrap();
        rustix::process::kill_process(victim, Signal::KILL).unwrap();
        let ended = running.await.unwrap();
        assert!(matches!(ended, Err(IsolationError::MachineLost(_))), "{ended:?}");
        assert!(!sandbox.is_alive().await);
        assert!(matches!(sandbox.exec(support::script(":")).await, Err(IsolationError::MachineLost(_))));
        sandbox.destroy().await.unwrap();
        assert_eq!(rustix::process::test_kill_process(victim), Err(Errno::SRCH));
        drop(sandbox);
        before.settle();
    }
}

async fn dropped() {
    warm_up().await;
    let before = Before::take();
    let sandbox = machine().await;
    let running = sandbox.exec_streaming(support::script("sleep 1000")).await.unwrap();
    drop(sandbox);
    drop(running);
    before.settle();
    // Also cancel the creation of a machine.
    let backend = gondolin();
    let making = tokio::spawn(async move { backend.create_sandbox(SandboxSpec::default()).await.map(drop) });
    monitor().await;
    making.abort();
    assert!(making.await.unwrap_err().is_cancelled());
    before.settle();
}

/// Waits for the monitor (QEMU) of a machine that is being started.
async fn monitor() -> Pid {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(pid) = descendant("name=agentd,bus=virtio-serial0.0") {
            return pid;
        }
        assert!(Instant::now() < deadline, "no QEMU was started");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn stalled_start() {
    warm_up().await;
    let before = Before::take();
    let mut config = agentd::isolation::GondolinConfig::in_data_dir(&support::data());
    config.start_limit = Duration::from_secs(30);
    let backend = agentd::isolation::GondolinBackend::with_config(&std::env::temp_dir(), config);
    let making = tokio::spawn(async move { backend.create_sandbox(SandboxSpec::default()).await });
    let stopped = monitor().await;
    rustix::process::kill_process(stopped, Signal::STOP).unwrap();
    let sandbox = making.await.unwrap().unwrap();
    assert_eq!(rustix::process::test_kill_process(stopped), Err(Errno::SRCH));
    assert_eq!(out(&sh(&sandbox, "echo started").await).trim(), "started");
    sandbox.destroy().await.unwrap();
    drop(sandbox);
    before.settle();
}

/// Returns the peak memory of this process since [`reset_peak`], in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn reset_peak() {
    // clear_refs, `proc(5)`.
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

async fn large_file() {
    const PIECE: u32 = 1 << 20;
    // A file of 1 GiB behaves the same, but takes minutes: an emulated guest copies a few MiB per second.
    const SIZE: u32 = 96 << 20;
    const WRITTEN: u32 = 32 << 20;
    const BOUND: u64 = 16 << 20;
    let sandbox = machine().await;
    let piece = |number: u32| (0..PIECE).map(move |at| ((at ^ number).wrapping_mul(2_654_435_761) >> 24) as u8);
    sh(&sandbox, "truncate -s 96M /var/sparse").await;
    reset_peak();
    let before = peak();
    let (from, mut to) = std::io::pipe().unwrap();
    let writer_thread = std::thread::spawn(move || {
        for number in 0..WRITTEN / PIECE {
            std::io::Write::write_all(&mut to, &piece(number).collect::<Vec<u8>>()).unwrap();
        }
    });
    let path = std::path::Path::new("/var/large");
    assert_eq!(sandbox.write_file_from(path, from.into()).await.unwrap(), u64::from(WRITTEN));
    writer_thread.join().unwrap();
    assert_eq!(out(&sh(&sandbox, "stat -c %s /var/large").await).trim(), WRITTEN.to_string());
    let (mut from, to) = std::io::pipe().unwrap();
    let reader_thread = std::thread::spawn(move || {
        let mut taken = vec![0; PIECE.try_into().unwrap()];
        for number in 0..WRITTEN / PIECE {
            std::io::Read::read_exact(&mut from, &mut taken).unwrap();
            assert!(taken.iter().copied().eq(piece(number)), "piece {number}");
        }
        std::io::Read::read(&mut from, &mut taken).unwrap()
    });
    assert_eq!(sandbox.read_file_to(path, u64::MAX, to.into()).await.unwrap(), u64::from(WRITTEN));
    assert_eq!(reader_thread.join().unwrap(), 0);
    let file = tempfile::tempfile().unwrap();
    let copied = sandbox.read_file_to(std::path::Path::new("/var/sparse"), SIZE.into(), file.try_clone().unwrap().into()).await;
    assert_eq!(copied.unwrap(), u64::from(SIZE));
    assert_eq!(file.metadata().unwrap().len(), u64::from(SIZE));
    // The kernel's counters are inexact by some pages per thread, so the second value can be below the first.
    let more = peak().saturating_sub(before);
    assert!(more < BOUND, "{more} bytes for files of {SIZE} and {WRITTEN}");
    sandbox.destroy().await.unwrap();
}

/// A part of QEMU's command line.
const QEMU: &str = "name=agentd,bus=virtio-serial0.0";

/// Returns the argument that follows `option` in a process's command line.
fn word_after(pid: Pid, option: &str) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let at = words.iter().position(|word| word == option).unwrap();
    words[at + 1].clone().into_owned()
}

async fn accelerators() {
    let user = rustix::process::geteuid();
    let kept = support::data().join(format!("gondolin/accelerator-{}.json", user.as_raw()));
    // Remove the stored result, so that KVM is tried again.
    fs::remove_file(&kept).ok();
    let can_open = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    for _ in 0..2 {
        let sandbox = machine().await;
        let qemu = descendant(QEMU).unwrap();
        let accelerator = word_after(qemu, "-accel");
        let verdict: Option<serde_json::Value> = fs::read(&kept).ok().map(|kept| serde_json::from_slice(&kept).unwrap());
        if let Some(verdict) = verdict {
            assert!(can_open);
            let verdict = &verdict["verdict"];
            assert!(accelerator.starts_with(verdict["accelerator"].as_str().unwrap()), "{accelerator}: {verdict}");
            // The verdict contains a reason only if KVM is not used.
            assert_eq!(accelerator == "kvm", verdict["without_kvm"] == "", "{verdict}");
        } else {
            assert!(!can_open || !user.is_root());
        }
        assert!(can_open || accelerator.starts_with("tcg"));
        // QEMU has the device only with KVM. Only root can look into QEMU's root directory.
        if user.is_root() {
            let has_device = fs::exists(format!("/proc/{}/root/dev/kvm", qemu.as_raw_nonzero())).unwrap();
            assert_eq!(has_device, accelerator == "kvm");
        }
        // The guest has no KVM, and with KVM its processor reports no virtualisation.
        let inside = out(&sh(&sandbox, "ls /dev/kvm 2>/dev/null; grep -cwE 'svm|vmx' /proc/cpuinfo").await);
        assert!(!inside.contains("kvm") && (accelerator != "kvm" || inside.trim() == "0"), "{inside}");
        sandbox.destroy().await.unwrap();
    }
}

async fn used_up() {
    let sandbox = machine().await;
    // Use up the machine's memory: the command is killed, or gets an error.
    let memory = "import os\nblocks = []\nwhile True: blocks.append(os.urandom(1 << 20) * 16)";
    let memory = sandbox.exec(support::command(&["python3", "-c", memory])).await.unwrap();
    assert_ne!(memory.exit_code, Some(0));
    // The guest's disk is smaller than the host's limit, so the guest reports the error.
    let disk = sh(&sandbox, "fallocate -l 4G /var/file; echo $?; rm -f /var/file").await;
    assert_eq!(out(&disk).trim(), "1", "{disk:?}");
    assert_eq!(out(&sh(&sandbox, "echo alive").await).trim(), "alive");
    sandbox.destroy().await.unwrap();
}

async fn limited() {
    let sandbox = machine().await;
    let qemu = descendant(QEMU).unwrap();
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", qemu.as_raw_nonzero())).unwrap();
    let group = |controller: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1).is_some_and(|of| of.split(',').any(|of| of == controller)));
        line.and_then(|line| Some(PathBuf::from(format!("/sys/fs/cgroup/{controller}{}", line.splitn(3, ':').nth(2)?))))
    };
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).map(|path| format!("/sys/fs/cgroup{path}"));
    let limit = |controller: &str, one: &str, two: &str| {
        let file = group(controller).map(|group| group.join(one)).or(unified.clone().map(|group| PathBuf::from(group).join(two)));
        // The root cgroup has no file for a limit.
        fs::read_to_string(file.unwrap()).unwrap_or_default().trim().parse::<u64>().unwrap_or(u64::MAX)
    };
    let memory = limit("memory", "memory.limit_in_bytes", "memory.max");
    let tasks = limit("pids", "pids.max", "pids.max");
    if rustix::process::geteuid().is_root() {
        // Memory and disk of a default machine, plus the needs of Node and QEMU.
        assert!((2 << 30..6 << 30).contains(&memory), "{memory}");
        assert!(tasks < 1000, "{tasks}");
    } else {
        // No limit was requested, so an ordinary user without a cgroup gets none.
        assert!(memory > 2 << 30);
    }
    sandbox.destroy().await.unwrap();
}

async fn strange_names() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let dir = support::directory();
    let name = |bytes: &[u8]| dir.path().join(OsStr::from_bytes(bytes));
    fs::write(name(b"host-\xff"), "host").unwrap();
    // The name that a lossy decoder would produce.
    fs::write(name("host-\u{fffd}".as_bytes()), "other").unwrap();
    fs::write(name("h\u{f6}st".as_bytes()), "plain").unwrap();
    let spec =
        SandboxSpec { grants: vec![support::grant(dir.path(), agentd::isolation::Access::ReadWrite)], ..SandboxSpec::default() };
    let sandbox = gondolin().create_sandbox(spec).await.unwrap();
    let at = dir.path().display();
    assert_eq!(out(&sh(&sandbox, &format!("cat '{at}/h\u{f6}st'")).await), "plain");
    // Access to such a file is an error in the guest. It may end Gondolin's file server, and with that all grants.
    let attempts = ["cat \"$(printf 'host-\\377')\"", "echo guest >\"$(printf 'guest-\\377')\"", "rm \"$(printf 'host-\\377')\""];
    for attempt in attempts {
        let outcome = sh(&sandbox, &format!("cd '{at}' && {attempt}")).await;
        assert_ne!(outcome.exit_code, Some(0), "{attempt}: {outcome:?}");
        assert_eq!(out(&outcome), "", "{attempt}");
    }
    // The machine is alive, and the host's files are unchanged.
    assert_eq!(out(&sh(&sandbox, "echo alive").await).trim(), "alive");
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let contents: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert_eq!(contents, ["other", "host", "plain"], "{files:?}");
    sandbox.destroy().await.unwrap();
}

async fn not_installed() {
    let empty = support::directory();
    let config = agentd::isolation::GondolinConfig::in_data_dir(empty.path());
    let backend = agentd::isolation::GondolinBackend::with_config(empty.path(), config);
    for error in [backend.probe().await.err(), backend.create_sandbox(SandboxSpec::default()).await.err()] {
        let error = error.unwrap();
        assert!(matches!(error, IsolationError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("agentd gondolin setup"), "{error}");
    }
}
