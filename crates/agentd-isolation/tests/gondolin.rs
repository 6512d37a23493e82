//! What only machines of Gondolin's can leave behind, or lose: Node, QEMU, their sockets and disks.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "gondolin/snapshots.rs"]
mod snapshots;
#[path = "support/mod.rs"]
mod support;

use agentd_isolation::{IsolationBackend, IsolationError, Sandbox, SandboxSpec};
use libtest_mimic::Arguments;
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
use support::{PATIENCE, gondolin, inventory::Inventory, out, sh, trial};

/// `argv[1]` of a process that makes machines until it is killed.
const VICTIM: &str = "--make-machines-until-killed";

/// `argv[1]` of a process that does what the next agentd does.
const NEXT: &str = "--make-one-sandbox";

/// Moments at which a parent is killed.
const KILLS: u32 = 20;

fn main() {
    agentd_isolation::take_role();
    match std::env::args().nth(1).as_deref() {
        Some(VICTIM) => victim(),
        Some(NEXT) => next(),
        _ => {}
    }
    // Whoever loses its parent comes here, so that nobody is missed.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut arguments = Arguments::from_args();
    // They count what is there, so they take turns.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("a_parent_killed_at_any_moment_leaves_no_machine".to_owned(), killed_parents),
        trial("a_machine_whose_host_side_is_killed_is_lost_and_leaves_nothing".to_owned(), killed_host_sides),
        trial("kvm_is_used_only_where_it_was_tried_and_works".to_owned(), accelerators),
        trial("a_guest_that_uses_up_its_memory_or_its_disk_keeps_its_machine".to_owned(), used_up),
        trial("the_monitor_has_limits_of_its_own".to_owned(), limited),
        trial("a_name_that_is_not_utf8_is_never_another_files".to_owned(), strange_names),
        trial("a_guest_that_never_answers_lets_a_snapshot_fail_and_nothing_is_left".to_owned(), snapshots::unanswered),
        trial("what_a_payload_leaves_on_its_disk_starts_no_machine".to_owned(), snapshots::nothing_starts_from_it),
        trial("what_is_saved_goes_with_its_sandbox".to_owned(), snapshots::saved_goes),
        trial("a_dropped_machine_leaves_nothing".to_owned(), dropped),
        trial("a_large_file_passes_in_little_memory_and_comes_back_as_it_was".to_owned(), large_file),
        trial("what_is_not_installed_is_said_with_the_command_that_installs_it".to_owned(), not_installed),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// Files that Gondolin and QEMU make where temporary files are, by what their names begin with.
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
    /// Whether this process had children: the launcher.
    children: usize,
}

impl Before {
    fn take() -> Self {
        Self { inventory: Inventory::take(), temporary: temporary(), children: children().len() }
    }

    /// Waits until the host is as it was.
    fn settle(&self) {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            for child in children().into_iter().skip(self.children) {
                // Only zombies are reaped, and those of other tests' are theirs.
                rustix::process::waitpid(Pid::from_raw(child), WaitOptions::NOHANG).ok();
            }
            let (now, files) = (Inventory::take(), temporary());
            let added: Vec<_> = files.difference(&self.temporary).chain(now.files.difference(&self.inventory.files)).collect();
            // All that ever was below this process is its child by now, or dead. Groups are made for limits only.
            let same = now.descriptors <= self.inventory.descriptors && now.mounts <= self.inventory.mounts;
            if same && added.is_empty() && children().len() <= self.children {
                return;
            }
            assert!(
                Instant::now() < patience,
                "left behind: {} descriptors, {} mounts, {added:?}, children {:?}; before: {self:?}",
                now.descriptors,
                now.mounts,
                children()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The processes whose parent is this one.
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

/// The process below this one whose command line contains `needle`.
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

/// Starts the launcher, and opens what is opened once.
async fn once() {
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

/// What the next agentd does.
fn next() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // What was saved is cleared by the next machine.
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
        // Any moment of the time in which it makes, uses and destroys its first machine, and begins with the second.
        std::thread::sleep(Duration::from_millis(u64::from(number) * 500));
        if number % 3 == 2 {
            // Its launcher first: nobody is left to clean up.
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
    // The launcher, and what is opened once.
    once().await;
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
        assert!(matches!(ended, Err(IsolationError::Lost(_))), "{ended:?}");
        assert!(!sandbox.is_alive().await);
        assert!(matches!(sandbox.exec(support::script(":")).await, Err(IsolationError::Lost(_))));
        sandbox.destroy().await.unwrap();
        assert_eq!(rustix::process::test_kill_process(victim), Err(Errno::SRCH));
        drop(sandbox);
        before.settle();
    }
}

async fn dropped() {
    once().await;
    let before = Before::take();
    let sandbox = machine().await;
    let running = sandbox.exec_streaming(support::script("sleep 1000")).await.unwrap();
    drop(sandbox);
    drop(running);
    before.settle();
    // And one that is not there yet.
    let backend = gondolin();
    let making = tokio::spawn(async move { backend.create_sandbox(SandboxSpec::default()).await.map(drop) });
    let patience = Instant::now() + PATIENCE;
    while descendant("name=agentd,bus=virtio-serial0.0").is_none() {
        assert!(Instant::now() < patience, "it did not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    making.abort();
    assert!(making.await.unwrap_err().is_cancelled());
    before.settle();
}

/// The most memory that this process has had since [`forget_peak`], bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn forget_peak() {
    // clear_refs, `proc(5)`.
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

async fn large_file() {
    const PIECE: u32 = 1 << 20;
    // One of a gigabyte passes alike, in minutes: an emulated guest carries some megabytes in a second.
    const SIZE: u32 = 96 << 20;
    const WRITTEN: u32 = 32 << 20;
    const BOUND: u64 = 16 << 20;
    let sandbox = machine().await;
    let piece = |number: u32| (0..PIECE).map(move |at| ((at ^ number).wrapping_mul(2_654_435_761) >> 24) as u8);
    sh(&sandbox, "truncate -s 96M /var/sparse").await;
    forget_peak();
    let before = peak();
    let (from, mut to) = std::io::pipe().unwrap();
    let giver = std::thread::spawn(move || {
        for number in 0..WRITTEN / PIECE {
            std::io::Write::write_all(&mut to, &piece(number).collect::<Vec<u8>>()).unwrap();
        }
    });
    let path = std::path::Path::new("/var/large");
    assert_eq!(sandbox.write_file_from(path, from.into()).await.unwrap(), u64::from(WRITTEN));
    giver.join().unwrap();
    assert_eq!(out(&sh(&sandbox, "stat -c %s /var/large").await).trim(), WRITTEN.to_string());
    let (mut from, to) = std::io::pipe().unwrap();
    let taker = std::thread::spawn(move || {
        let mut taken = vec![0; PIECE.try_into().unwrap()];
        for number in 0..WRITTEN / PIECE {
            std::io::Read::read_exact(&mut from, &mut taken).unwrap();
            assert!(taken.iter().copied().eq(piece(number)), "piece {number}");
        }
        std::io::Read::read(&mut from, &mut taken).unwrap()
    });
    assert_eq!(sandbox.read_file_to(path, u64::MAX, to.into()).await.unwrap(), u64::from(WRITTEN));
    assert_eq!(taker.join().unwrap(), 0);
    let file = tempfile::tempfile().unwrap();
    let carried = sandbox.read_file_to(std::path::Path::new("/var/sparse"), SIZE.into(), file.try_clone().unwrap().into()).await;
    assert_eq!(carried.unwrap(), u64::from(SIZE));
    assert_eq!(file.metadata().unwrap().len(), u64::from(SIZE));
    let more = peak() - before;
    assert!(more < BOUND, "{more} bytes for files of {SIZE} and {WRITTEN}");
    sandbox.destroy().await.unwrap();
}

/// What QEMU is started with.
const QEMU: &str = "name=agentd,bus=virtio-serial0.0";

/// The one word after another in a process's command line.
fn word_after(pid: Pid, option: &str) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let at = words.iter().position(|word| word == option).unwrap();
    words[at + 1].clone().into_owned()
}

async fn accelerators() {
    let user = rustix::process::geteuid();
    let kept = support::data().join(format!("gondolin/accelerator-{}.json", user.as_raw()));
    // Tried anew, where what was found before could be kept.
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
            // Why not is told, and nothing else.
            assert_eq!(accelerator == "kvm", verdict["without_kvm"] == "", "{verdict}");
        } else {
            assert!(!can_open || !user.is_root());
        }
        assert!(can_open || accelerator.starts_with("tcg"));
        // Its monitor has the device then, and only then. As an ordinary user's, one cannot look into it.
        if user.is_root() {
            let there = fs::exists(format!("/proc/{}/root/dev/kvm", qemu.as_raw_nonzero())).unwrap();
            assert_eq!(there, accelerator == "kvm");
        }
        // And none of it leads into the guest; an emulated one may believe what it likes of its processor.
        let inside = out(&sh(&sandbox, "ls /dev/kvm 2>/dev/null; grep -cwE 'svm|vmx' /proc/cpuinfo").await);
        assert!(!inside.contains("kvm") && (accelerator != "kvm" || inside.trim() == "0"), "{inside}");
        sandbox.destroy().await.unwrap();
    }
}

async fn used_up() {
    let sandbox = machine().await;
    // All that the machine has: the command is ended, or told that there is no more.
    let memory = "import os\nblocks = []\nwhile True: blocks.append(os.urandom(1 << 20) * 16)";
    let memory = sandbox.exec(support::command(&["python3", "-c", memory])).await.unwrap();
    assert_ne!(memory.exit_code, Some(0));
    // There is less room than the host has for what is written, so that it is the guest that says so.
    let disk = sh(&sandbox, "fallocate -l 4G /var/file; echo $?; rm -f /var/file").await;
    assert_eq!(out(&disk).trim(), "1", "{disk:?}");
    assert_eq!(out(&sh(&sandbox, "echo there").await).trim(), "there");
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
        // The group of all has no limit, and no file for one.
        fs::read_to_string(file.unwrap()).unwrap_or_default().trim().parse::<u64>().unwrap_or(u64::MAX)
    };
    let memory = limit("memory", "memory.limit_in_bytes", "memory.max");
    let tasks = limit("pids", "pids.max", "pids.max");
    if rustix::process::geteuid().is_root() {
        // Memory and disk of a machine that nothing was asked of, and what Node and QEMU need.
        assert!((2 << 30..6 << 30).contains(&memory), "{memory}");
        assert!(tasks < 1000, "{tasks}");
    } else {
        // Nothing was asked for, so it goes without where no group can be made.
        assert!(memory > 2 << 30);
    }
    sandbox.destroy().await.unwrap();
}

async fn strange_names() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let dir = support::directory();
    let name = |bytes: &[u8]| dir.path().join(OsStr::from_bytes(bytes));
    fs::write(name(b"host-\xff"), "host").unwrap();
    // What a careless decoder makes of it.
    fs::write(name("host-\u{fffd}".as_bytes()), "other").unwrap();
    fs::write(name("h\u{f6}st".as_bytes()), "plain").unwrap();
    let spec =
        SandboxSpec { grants: vec![support::grant(dir.path(), agentd_isolation::Access::ReadWrite)], ..SandboxSpec::default() };
    let sandbox = gondolin().create_sandbox(spec).await.unwrap();
    let at = dir.path().display();
    assert_eq!(out(&sh(&sandbox, &format!("cat '{at}/h\u{f6}st'")).await), "plain");
    // To name such a file, or to make one, is an error in the guest; it may end Gondolin's file server there, and with that all grants.
    let attempts = ["cat \"$(printf 'host-\\377')\"", "echo guest >\"$(printf 'guest-\\377')\"", "rm \"$(printf 'host-\\377')\""];
    for attempt in attempts {
        let outcome = sh(&sandbox, &format!("cd '{at}' && {attempt}")).await;
        assert_ne!(outcome.exit_code, Some(0), "{attempt}: {outcome:?}");
        assert_eq!(out(&outcome), "", "{attempt}");
    }
    // The machine is there, and the host's files are what they were.
    assert_eq!(out(&sh(&sandbox, "echo there").await).trim(), "there");
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let contents: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert_eq!(contents, ["other", "host", "plain"], "{files:?}");
    sandbox.destroy().await.unwrap();
}

async fn not_installed() {
    let nowhere = support::directory();
    let config = agentd_isolation::GondolinConfig::below(nowhere.path());
    let backend = agentd_isolation::GondolinBackend::new(config, nowhere.path());
    for error in [backend.probe().await.err(), backend.create_sandbox(SandboxSpec::default()).await.err()] {
        let error = error.unwrap();
        assert!(matches!(error, IsolationError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("agentd gondolin setup"), "{error}");
    }
}
