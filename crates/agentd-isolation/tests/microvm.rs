//! What `firecracker` does beside what all backends do: snapshots, copies, and nothing left of any of it. It needs a machine on which
//! Firecracker runs, with its programs and assets in place, and says so where it is not one; `./test` runs it in the lab.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "microvm/rate.rs"]
mod rate;
#[path = "microvm/saved.rs"]
mod saved;
#[path = "support/mod.rs"]
mod support;

use agentd_isolation::{Access, Bytes, Command, IsolationError, Limits, Sandbox, SandboxSpec, StdinSource, data_directory};
use libtest_mimic::{Arguments, Trial};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use support::{backend, directory, grant, out, script, sh, with};

const NAME: &str = "firecracker";

/// How long a test may take: each starts many machines, which in an emulated one are slow.
const PATIENCE: Duration = Duration::from_secs(400);

/// Machines that are made, used and destroyed, one after the other.
const CYCLES: u32 = 50;

/// Moments at which a process that has machines is killed.
const KILLS: u32 = 9;

/// `argv[1]` of such a process.
const VICTIM: &str = "--make-machines-until-killed";

fn main() {
    agentd_isolation::take_role();
    if std::env::args().nth(1).as_deref() == Some(VICTIM) {
        victim();
    }
    let mut arguments = Arguments::from_args();
    // They count what is there, so they take turns.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("five_forks_go_on_counting_and_differ", saved::five_forks_go_on_counting_and_differ),
        trial("a_snapshot_is_memory_and_disk_of_one_moment", saved::a_snapshot_is_memory_and_disk_of_one_moment),
        trial("a_suspended_sandbox_is_saved_and_stays_suspended", saved::a_suspended_sandbox_is_saved_and_stays_suspended),
        trial("a_save_that_is_given_up_lets_nothing_run_on", saved::a_save_that_is_given_up_lets_nothing_run_on),
        trial("what_a_restore_has_left_is_gone_with_the_sandbox", saved::what_a_restore_has_left_is_gone_with_the_sandbox),
        trial(
            "a_restore_takes_the_spare_and_does_without_a_killed_one",
            saved::a_restore_takes_the_spare_and_does_without_a_killed_one,
        ),
        trial("a_machine_that_went_back_ahead_is_what_was_saved", saved::a_machine_that_went_back_ahead_is_what_was_saved),
        trial("what_runs_in_a_snapshot_waits_for_the_restore", saved::what_runs_in_a_snapshot_waits_for_the_restore),
        trial("the_memory_that_a_machine_uses_is_told", the_memory_that_a_machine_uses_is_told),
        trial("a_machine_is_no_faster_than_it_may_be", rate::a_machine_is_no_faster_than_it_may_be),
        trial("what_is_granted_is_copied_and_comes_back", what_is_granted_is_copied_and_comes_back),
        trial("forks_have_the_copies_of_what_is_read_only", forks_have_the_copies_of_what_is_read_only),
        trial("what_is_killed_leaves_nothing_after_the_next_start", what_is_killed_leaves_nothing_after_the_next_start),
        trial(
            "an_agentd_that_is_killed_leaves_nothing_after_the_next_start",
            an_agentd_that_is_killed_leaves_nothing_after_the_next_start,
        ),
        trial("fifty_sandboxes_leave_nothing", fifty_sandboxes_leave_nothing),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial<F, Fut>(name: &str, test: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await }).map_err(|_| "it took too long".into())
    })
}

/// A sandbox in a small machine: there is less to be saved.
async fn small() -> Arc<dyn Sandbox> {
    let limits = Limits { memory: Some(Bytes(64 << 20)), ..Limits::default() };
    with(NAME, SandboxSpec { limits, ..SandboxSpec::default() }).await
}

/// A command that counts by the length of a file, and never ends. It starts no process: up to six do so at once, in machines that may be
/// emulated.
const COUNT: &str =
    "mkfifo /tmp/tick && exec bash -c 'exec 9<>/tmp/tick; while :; do printf x >>/tmp/count; read -t 0.2 -u 9; done'";

async fn count(sandbox: &Arc<dyn Sandbox>) -> u64 {
    out(&sh(sandbox, "wc -c </tmp/count || echo 0").await).trim().parse().unwrap()
}

async fn counts_beyond(sandbox: &Arc<dyn Sandbox>, least: u64) -> u64 {
    loop {
        let now = count(sandbox).await;
        if now > least {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn read(from: &std::os::fd::OwnedFd, buffer: &mut [u8]) -> usize {
    let copy = from.try_clone().unwrap();
    let wanted = buffer.len();
    let (read, bytes) = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; wanted];
        loop {
            match rustix::io::read(&copy, &mut bytes[..]) {
                Ok(read) => return (read, bytes),
                Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
                Err(errno) => panic!("{errno}"),
            }
        }
    })
    .await
    .unwrap();
    assert!(read > 0, "it ended");
    buffer[..read].copy_from_slice(&bytes[..read]);
    read
}

/// How much memory the machine uses.
async fn memory(sandbox: &Arc<dyn Sandbox>) -> u64 {
    sandbox.resource_usage().await.unwrap().machine_memory.unwrap()
}

async fn the_memory_that_a_machine_uses_is_told() {
    const TAKEN: u64 = 48 << 20;
    let sandbox = small().await;
    // So that the interpreter's files are not read anew.
    sh(&sandbox, "python3 -c pass").await;
    let before = memory(&sandbox).await;
    let text = format!("x = bytearray({TAKEN}); print(len(x), flush=True); input()");
    let command = Command { argv: ["/usr/bin/python3", "-c", &text].map(Into::into).into(), ..script("") };
    let mut taking = sandbox.exec_streaming(Command { stdin: StdinSource::Stream, ..command }).await.unwrap();
    let streams = taking.take_streams();
    read(streams.stdout.as_ref().unwrap(), &mut [0; 1]).await;
    let most = memory(&sandbox).await;
    assert!(most > before + TAKEN / 2, "{before} bytes, and {most} with {TAKEN} more");
    drop(streams);
    taking.wait().await.unwrap();
    let after = memory(&sandbox).await;
    assert!(after < most - TAKEN / 2, "{most} bytes, and {after} with {TAKEN} less");
    sandbox.destroy().await.unwrap();
}

/// Shell, in a directory.
async fn sh_in(sandbox: &Arc<dyn Sandbox>, place: &Path, text: &str) -> String {
    let outcome = sandbox.exec(Command { cwd: Some(place.to_path_buf()), ..script(text) }).await.unwrap();
    assert_eq!(outcome.exit_code, Some(0), "{text}: {outcome:?}");
    out(&outcome)
}

async fn what_is_granted_is_copied_and_comes_back() {
    let root = directory();
    let place = root.path();
    let mut sum = 0;
    for number in 0..300u32 {
        fs::create_dir_all(place.join(format!("d{}", number % 10))).unwrap();
        let bytes = vec![u8::try_from(number % 256).unwrap(); usize::try_from(number).unwrap() * 200];
        sum += bytes.len();
        fs::write(place.join(format!("d{}/{number}", number % 10)), bytes).unwrap();
    }
    let limits = Limits { memory: Some(Bytes(64 << 20)), ..Limits::default() };
    let sandbox =
        with(NAME, SandboxSpec { limits, grants: vec![grant(place, Access::ReadWrite)], ..SandboxSpec::default() }).await;
    assert_eq!(sh_in(&sandbox, place, "cat d*/* | wc -c").await, format!("{sum}\n"));
    sh_in(&sandbox, place, "cat d*/* >all; mv d1 moved; rm -r d2; ln -s all link").await;
    assert_eq!(fs::metadata(place.join("all")).unwrap().len(), sum as u64);
    assert_eq!(fs::read_link(place.join("link")).unwrap(), Path::new("all"));
    assert!(!place.join("d1").exists() && !place.join("d2").exists());
    assert_eq!(fs::read(place.join("moved/11")).unwrap(), vec![11; 2200]);
    assert!(matches!(sandbox.fork().await.map(drop), Err(IsolationError::Unsupported { .. })));
    assert!(matches!(sandbox.snapshot("x").await, Err(IsolationError::Unsupported { .. })));
    sandbox.destroy().await.unwrap();
}

async fn forks_have_the_copies_of_what_is_read_only() {
    let root = directory();
    fs::write(root.path().join("file"), "then").unwrap();
    let limits = Limits { memory: Some(Bytes(64 << 20)), ..Limits::default() };
    let grants = vec![grant(root.path(), Access::ReadOnly)];
    let sandbox = with(NAME, SandboxSpec { limits, grants, ..SandboxSpec::default() }).await;
    fs::write(root.path().join("file"), "now").unwrap();
    let fork = sandbox.fork().await.unwrap();
    for sandbox in [&sandbox, &fork] {
        assert_eq!(sh_in(sandbox, root.path(), "cat file; ! printf x 2>/dev/null >file").await, "then");
    }
    assert_eq!(fs::read_to_string(root.path().join("file")).unwrap(), "now");
    for sandbox in [sandbox, fork] {
        sandbox.destroy().await.unwrap();
    }
}

/// The folders of machines, and the processes of Firecracker's and of its wardens.
fn left() -> (Vec<PathBuf>, Vec<String>) {
    let machines = data_directory().unwrap().join("vm/machines");
    let folders = fs::read_dir(machines).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    (folders, processes())
}

fn processes() -> Vec<String> {
    let named = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let program = line.split(|byte| *byte == 0).next()?.to_vec();
        let program = String::from_utf8(program).ok()?;
        let ours = ["firecracker", "jailer", "agentd-warden"].iter().any(|name| program.rsplit('/').next() == Some(name));
        ours.then(|| format!("{} {program}", entry.file_name().display()))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| named(&entry)).collect()
}

/// The groups that are there.
fn groups() -> BTreeSet<PathBuf> {
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = BTreeSet::new();
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                next.push(entry.path());
                if entry.file_name().to_string_lossy().starts_with("agentd.") {
                    found.insert(entry.path());
                }
            }
        }
    }
    found
}

/// Waits until nothing is there but these groups.
async fn settle(before: &BTreeSet<PathBuf>) {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let (folders, processes) = left();
        let more: Vec<_> = groups().difference(before).cloned().collect();
        if folders.is_empty() && processes.is_empty() && more.is_empty() {
            return;
        }
        assert!(Instant::now() < patience, "left behind: {folders:?} {processes:?} {more:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pids(name: &str) -> Vec<i32> {
    processes().iter().filter(|line| line.ends_with(name)).map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

async fn what_is_killed_leaves_nothing_after_the_next_start() {
    small().await.destroy().await.unwrap();
    let before = groups();
    for victim in ["firecracker", "agentd-warden"] {
        let sandbox = small().await;
        let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
        counts_beyond(&sandbox, 0).await;
        kill(victim);
        while sandbox.is_alive().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(sandbox.exec(script(":")).await, Err(IsolationError::Lost(_))));
        drop(sandbox);
        // The next start.
        let backend = backend(NAME);
        backend.create_sandbox(SandboxSpec::default()).await.unwrap().destroy().await.unwrap();
        settle(&before).await;
    }
}

fn kill(name: &str) {
    for pid in pids(name) {
        // Or it has ended by itself.
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).ok();
    }
}

/// Makes a machine, uses it, goes back in it and destroys it.
async fn cycle() {
    let sandbox = small().await;
    sandbox.snapshot("one").await.unwrap();
    sh(&sandbox, "sleep 1000 & setsid sleep 1000 & echo x >/kept").await;
    sandbox.restore("one").await.unwrap();
    sandbox.destroy().await.unwrap();
}

fn victim() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        loop {
            cycle().await;
        }
    })
}

async fn an_agentd_that_is_killed_leaves_nothing_after_the_next_start() {
    cycle().await;
    let before = groups();
    let begin = Instant::now();
    cycle().await;
    let whole = begin.elapsed();
    for number in 0..KILLS {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .arg(VICTIM)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Any moment of the time in which it makes, uses and destroys its first machine, and begins with the second.
        tokio::time::sleep(whole.mul_f64(1.2 * f64::from(number + 1) / f64::from(KILLS))).await;
        // Alone; or after those that would clean up; or after what it waits for.
        match number % 3 {
            0 => {}
            1 => kill("agentd-warden"),
            _ => ["jailer", "firecracker"].into_iter().for_each(kill),
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        // The next start.
        cycle().await;
        settle(&before).await;
    }
}

async fn fifty_sandboxes_leave_nothing() {
    small().await.destroy().await.unwrap();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, open) = (groups(), descriptors());
    for number in 0..CYCLES {
        let sandbox = small().await;
        assert_eq!(out(&sh(&sandbox, &format!("echo {number}")).await), format!("{number}\n"));
        // Some are dropped instead.
        if number % 5 == 0 { drop(sandbox) } else { sandbox.destroy().await.unwrap() }
    }
    settle(&before).await;
    assert!(descriptors() <= open + 2, "{} descriptors, {open} before", descriptors());
    assert!(Path::new("/dev/kvm").exists());
}
