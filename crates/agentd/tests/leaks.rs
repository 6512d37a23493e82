//! Nothing remains on the host: neither after thousands of sandboxes, nor after a parent that is killed at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "leaks/prepared.rs"]
mod prepared;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{Access, IsolationBackend, Limits, NetworkMode, Profile, SandboxSpec, Writable};
use agentd_isolation::shared_kernel::prepare;
use agentd_kernel::cgroup::{Controller, Hierarchy};
use rustix::{
    process::{Pid, Signal, WaitOptions},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    backend, bare, grant,
    inventory::{Inventory, limits},
    repetitions, run_one_at_a_time, runs, sh, trial,
};

/// `argv[1]` of a process that creates sandboxes until it is killed.
const VICTIM: &str = "--make-sandboxes-until-killed";

/// `argv[1]` of a process that snapshots and forks sandboxes until it is killed.
const VICTIM_OF_LAYERS: &str = "--copy-sandboxes-until-killed";

/// `argv[1]` of a process that creates one sandbox with limits, and one with layers.
const NEXT: &str = "--make-one-sandbox";

/// The number of kills of a parent, each at another moment.
const KILLS: u32 = 200;

/// The number of kills of a parent of sandboxes with layers.
const KILLS_OF_LAYERS: u32 = 40;

/// The number of sandboxes of the churn test.
const CHURN: u32 = 2000;

fn main() {
    agentd::isolation::take_role();
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some(VICTIM) => victim(&args.next().unwrap()),
        Some(VICTIM_OF_LAYERS) => victim_of_layers(&args.next().unwrap()),
        Some(NEXT) => next(),
        _ => {}
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let trials = vec![
        trial("thousands_of_sandboxes_leave_nothing".to_owned(), churn),
        trial("private_mounts_are_released_asynchronously_after_destroy".to_owned(), mounts),
        trial("parent_killed_at_any_moment_leaves_nothing".to_owned(), killed_parents),
        trial("layers_of_killed_parent_are_removed_by_next_process".to_owned(), killed_parents_of_layers),
        trial("slow_destroy_does_not_delay_other_sandboxes".to_owned(), slow_end),
        trial("runtime_that_stands_still_holds_up_no_other".to_owned(), idle_runtime),
        trial("destroy_that_failed_fails_until_the_rest_is_gone".to_owned(), busy_group),
        trial("failed_removal_of_layers_fails_until_they_are_gone".to_owned(), layers_not_removed),
        trial("launcher_killed_during_exec_leaves_no_cgroup".to_owned(), killed_under_a_sandbox),
        trial("killed_launcher_ends_its_sandboxes".to_owned(), killed_launchers),
        trial("prepared_process_becomes_first_process_of_next_sandbox_that_it_suits".to_owned(), prepared::prepared),
        trial("sandbox_of_process_prepared_for_a_view_equals_unprepared_sandbox".to_owned(), prepared::view),
        trial("grant_refused_while_the_sandbox_is_set_up_leaves_nothing".to_owned(), prepared::refused),
    ];
    run_one_at_a_time(trials)
}

async fn churn() {
    // Start the launcher and open the descriptors that stay open.
    for name in ["linux-native", "host-direct", "container"] {
        let sandbox = bare(name).await;
        sh(&sandbox, ":").await;
        sandbox.destroy().await.unwrap();
    }
    let before = Inventory::take();
    let count = repetitions(CHURN);
    for number in 0..count {
        let name = ["host-direct", "linux-native", "container"][usize::try_from(number % 3).unwrap()];
        let limits = if number % 8 == 1 { limits() } else { Limits::default() };
        let sandbox = backend(name).create_sandbox(SandboxSpec { limits, ..SandboxSpec::default() }).await.unwrap();
        if number % 3 == 0 {
            sh(&sandbox, "sleep 1000 & setsid sleep 1000 & exit 0").await;
        }
        // Many sandboxes are dropped instead, for a while all of them, so that no destroy reads the launcher's reports.
        if number % 2 == 0 && !(count / 4..count / 2).contains(&number) {
            sandbox.destroy().await.unwrap();
        }
    }
    bare("linux-native").await.destroy().await.unwrap();
    // Tasks of dropped sandboxes end when the runtime polls them.
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let after = Inventory::take();
        if after.adds_nothing_to(&before) {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {after:?}; before: {before:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn mounts() {
    for name in ["linux-native", "container"] {
        bare(name).await.destroy().await.unwrap();
        settled("the previous sandbox", 0);
        let sandbox = bare(name).await;
        settled(name, 1);
        sandbox.destroy().await.unwrap();
        settled(name, 0);
        // With a granted directory, destroy waits: the caller may want to unmount the device of the grant.
        let folder = tempfile::tempdir().unwrap();
        let grants = vec![grant(folder.path(), Access::ReadWrite)];
        let sandbox = backend(name).create_sandbox(SandboxSpec { grants, ..SandboxSpec::default() }).await.unwrap();
        settled(name, 0);
        sandbox.destroy().await.unwrap();
    }
}

/// Waits until the launchers hold this number of mount namespaces.
fn settled(what: &str, views: usize) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while Inventory::take().views != views {
        assert!(Instant::now() < deadline, "{what}: {:?}", Inventory::take());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn victim(mark: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for round in 0u64.. {
            // As root, the limits need another process, and this one waits for a plan until the end.
            prepare(NetworkMode::Off, Profile::Default, &Limits::default(), round % 2 == 0);
            let spec = SandboxSpec { limits: limits(), ..SandboxSpec::default() };
            let (native, direct) = (backend(if round % 2 == 0 { "linux-native" } else { "container" }), backend("host-direct"));
            let made = tokio::join!(native.create_sandbox(spec), direct.create_sandbox(SandboxSpec::default()));
            let (bounded, open) = (made.0.unwrap(), made.1.unwrap());
            let text = format!("sleep {mark} & setsid sleep {mark} & exit 0");
            tokio::join!(sh(&bounded, &text), sh(&open, &text));
            let handle = bounded.exec_streaming(support::script(&format!("setsid sleep {mark} & sleep {mark}"))).await.unwrap();
            open.destroy().await.unwrap();
            // Without a delegated cgroup, only root can suspend.
            if bounded.suspend().await.is_ok() && round % 3 == 0 {
                bounded.resume().await.unwrap();
            }
            drop(handle);
            bounded.destroy().await.unwrap();
        }
    });
    std::process::exit(1)
}

fn victim_of_layers(mark: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let layers = support::layers::Layers::new();
        loop {
            let sandbox = layers.create_sandbox(SandboxSpec::default()).await.unwrap();
            sh(&sandbox, "mkdir -p /dir/deep; echo x >/dir/deep/file; chmod 0 /dir").await;
            sandbox.snapshot("one").await.unwrap();
            let copy = sandbox.fork().await.unwrap();
            let handle = copy.exec_streaming(support::script(&format!("setsid sleep {mark} & sleep {mark}"))).await.unwrap();
            sandbox.restore("one").await.unwrap();
            drop(handle);
            sandbox.destroy().await.unwrap();
        }
    });
    std::process::exit(1)
}

async fn killed_parents_of_layers() {
    let mark = format!("97{}", std::process::id());
    let before = Inventory::take();
    let kills = repetitions(KILLS_OF_LAYERS);
    for number in 0..kills {
        let mut victim = start(VICTIM_OF_LAYERS, &mark);
        // The moments cover the first 80 ms.
        std::thread::sleep(Duration::from_millis(80) * number / kills);
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    let next = Command::new(std::env::current_exe().unwrap()).arg(NEXT).status().unwrap();
    assert!(next.success());
    settle(&before, &mark);
    let layers = std::env::temp_dir().join(format!("agentd-layers-{}", rustix::process::geteuid().as_raw()));
    assert!(!layers.exists(), "{}", layers.display());
}

fn start_victim(mark: &str) -> Child {
    start(VICTIM, mark)
}

fn start(what: &str, mark: &str) -> Child {
    Command::new(std::env::current_exe().unwrap()).args([what, mark]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the host is in the same state as before.
fn settle(before: &Inventory, mark: &str) {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        // Reap orphans here, because some init processes take seconds to do so.
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let (now, alive) = (Inventory::take(), runs(&format!("sleep {mark}")));
        if now.adds_nothing_to(before) && !alive {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {now:?}, a command alive: {alive}; before: {before:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn killed_parents() {
    let mark = format!("99{}", std::process::id());
    let before = Inventory::take();
    let kills = repetitions(KILLS);
    for number in 0..kills {
        let mut victim = start_victim(&mark);
        // The moments cover the first 40 ms, in which the process creates several sandboxes.
        std::thread::sleep(Duration::from_millis(40) * number / kills);
        victim.kill().unwrap();
        victim.wait().unwrap();
        settle(&before, &mark);
    }
}

async fn slow_end() {
    let slow = bare("host-direct").await;
    let others = [bare("host-direct").await, bare("linux-native").await, bare("container").await];
    // The parent of a command is the supervisor, which ends a sandbox without a namespace. A frozen one does not, and is not
    // killed before two seconds have passed.
    let supervisor: i32 = support::out(&sh(&slow, "echo $PPID").await).trim().parse().unwrap();
    let hierarchy = Hierarchy::detect();
    // An ordinary user without a delegated group has nothing to freeze it with.
    let freezer = hierarchy.has(Controller::Freezer).then(|| {
        let freezer = hierarchy.freezer(&Hierarchy::name(u32::MAX), None).unwrap();
        freezer.gather(|| vec![supervisor]).unwrap();
        while !freezer.set(true).unwrap() {}
        freezer
    });
    let mut end = std::pin::pin!(slow.destroy());
    // Without a freezer, the sandbox may end immediately.
    let at_once = tokio::select! { biased; _ = &mut end => true, () = std::future::ready(()) => false };
    let others = async {
        for other in others {
            if freezer.is_some() && !other.id().0.starts_with("host-direct") {
                other.suspend().await.unwrap();
                other.resume().await.unwrap();
            }
            other.destroy().await.unwrap();
        }
    };
    // A time limit, in case a sandbox waits forever.
    let done = tokio::time::timeout(Duration::from_secs(60), others).await;
    let ended = at_once || tokio::select! { biased; _ = &mut end => true, () = std::future::ready(()) => false };
    if let Some(freezer) = &freezer {
        freezer.set(false).unwrap();
    }
    assert!(done.is_ok(), "other sandboxes wait for the end of the slow one");
    if !ended {
        end.await.unwrap();
    }
    assert!(!ended || freezer.is_none(), "a frozen supervisor has ended its sandbox");
    while freezer.as_ref().is_some_and(|freezer| freezer.try_remove().is_err()) {}
}

/// The runtime that first waited for a report still exists, but is not driven any more.
async fn idle_runtime() {
    let idle = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let idle = tokio::task::spawn_blocking(move || {
        idle.block_on(async {
            let sandbox = bare("host-direct").await;
            let waits = tokio::spawn(async move { sandbox.destroy().await.unwrap() });
            // Enough for the tasks of this runtime to wait for the report.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            drop(waits);
        });
        idle
    });
    let idle = idle.await.unwrap();
    let sandbox = bare("host-direct").await;
    let destroyed = tokio::time::timeout(Duration::from_secs(60), sandbox.destroy()).await;
    // A runtime must not be dropped in another.
    tokio::task::spawn_blocking(move || drop(idle)).await.unwrap();
    destroyed.expect("no runtime waits for another").unwrap();
}

/// The group of a sandbox stays busy until the group that was created in it is removed.
async fn busy_group() {
    let spec = SandboxSpec { limits: limits(), ..SandboxSpec::default() };
    let sandbox = backend("linux-native").create_sandbox(spec).await.unwrap();
    let mark = format!(".{}.", launcher());
    let is_ours = |group: &PathBuf| group.file_name().is_some_and(|name| name.to_string_lossy().contains(&mark));
    let made: Vec<PathBuf> = support::inventory::groups().into_iter().filter(is_ours).collect();
    // An ordinary user's sandbox has no group.
    let inner = made.first().map(|group| group.join("inner"));
    if let Some(inner) = &inner {
        fs::create_dir(inner).unwrap();
        for _ in 0..2 {
            assert!(sandbox.destroy().await.is_err(), "{} is still there", inner.display());
        }
        fs::remove_dir(inner).unwrap();
    }
    sandbox.destroy().await.unwrap();
    assert!(made.iter().all(|group| !group.exists()));
}

async fn layers_not_removed() {
    let work = support::directory();
    let container = agentd::isolation::ContainerBackend::new(work.path(), None).unwrap();
    let spec = SandboxSpec { writable: Writable::TemporaryLayers, ..SandboxSpec::default() };
    let sandbox = container.create_sandbox(spec).await.unwrap();
    let store = |name: &str| {
        let stores = fs::read_dir(work.path()).unwrap().flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
        stores.map(|entry| entry.unwrap().path().join("state").join(name)).find(|path| path.exists())
    };
    let (staging, named) = (store("staging").unwrap(), store("named").unwrap());
    // What is removed is moved to this directory first.
    fs::rename(&staging, staging.with_extension("kept")).unwrap();
    fs::write(&staging, "").unwrap();
    for _ in 0..2 {
        assert!(sandbox.destroy().await.is_err());
    }
    fs::remove_file(&staging).unwrap();
    fs::rename(staging.with_extension("kept"), &staging).unwrap();
    assert_eq!(fs::read_dir(&named).unwrap().count(), 1);
    sandbox.destroy().await.unwrap();
    assert_eq!(fs::read_dir(&named).unwrap().count(), 0);
    sandbox.destroy().await.unwrap();
}

async fn killed_launchers() {
    let mark = format!("98{}", std::process::id());
    let before = Inventory::take();
    for number in 0..20u64 {
        let mut victim = start_victim(&mark);
        let pid = i32::try_from(victim.id()).unwrap();
        let launcher = loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            if let Some(pid) = children.split_ascii_whitespace().next() {
                break pid.parse::<i32>().unwrap();
            }
        };
        std::thread::sleep(Duration::from_millis(2 * number));
        rustix::process::kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
        // Wait until the launcher is dead; no event reports that.
        while fs::read_to_string(format!("/proc/{launcher}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::yield_now();
        }
        // The next launcher removes leftover groups when it creates its first group.
        let next = Command::new(std::env::current_exe().unwrap()).arg(NEXT).status().unwrap();
        assert!(next.success());
        settle(&before, &mark);
    }
}

async fn killed_under_a_sandbox() {
    let before = support::inventory::groups();
    let sandbox =
        backend("linux-native").create_sandbox(SandboxSpec { limits: limits(), ..SandboxSpec::default() }).await.unwrap();
    // On one processor, and with the lowest priority, the launcher closes its socket some time before it has ended.
    let (launcher, usual) = (launcher(), sched_getaffinity(None).unwrap());
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| usual.is_set(*cpu)).unwrap());
    sched_setaffinity(Pid::from_raw(launcher), &one).unwrap();
    restrict_threads(&one);
    let idle = Command::new("chrt").args(["-i", "-p", "0", &launcher.to_string()]).status().unwrap();
    assert!(idle.success());
    rustix::process::kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
    assert!(sandbox.exec(support::script("sleep 1000")).await.is_err());
    assert!(sandbox.destroy().await.is_err());
    assert!(support::inventory::groups().is_subset(&before));
    restrict_threads(&usual);
}

/// Sets the processors of every thread of this process. A thread may end in the meantime.
fn restrict_threads(processors: &CpuSet) {
    for thread in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let thread = thread.file_name().to_str().unwrap().parse().unwrap();
        sched_setaffinity(Pid::from_raw(thread), processors).ok();
    }
}

/// The launcher of this process.
fn launcher() -> i32 {
    let children = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path().join("children"));
    let children: String = children.map(|list| fs::read_to_string(list).unwrap_or_default()).collect();
    let is_launcher =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "agentd-launcher");
    children.split_ascii_whitespace().find(is_launcher).unwrap().parse().unwrap()
}

/// Creates one sandbox, as the next run of agentd would.
fn next() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spec = SandboxSpec { limits: limits(), ..SandboxSpec::default() };
        let sandbox = backend("linux-native").create_sandbox(spec).await.unwrap();
        sandbox.destroy().await.unwrap();
        // Not the backend of the registry, which is never dropped.
        let layers = support::layers::Layers::new();
        layers.create_sandbox(SandboxSpec::default()).await.unwrap().destroy().await.unwrap();
    });
    std::process::exit(0)
}
