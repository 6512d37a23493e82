//! Nothing is left behind: not by thousands of sandboxes, and not by a parent that is killed at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use agentd_isolation::{Access, IsolationBackend, Limits, SandboxSpec};
use libtest_mimic::Arguments;
use rustix::process::{Pid, Signal, WaitOptions};
use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::{
    backend, bare, grant,
    inventory::{Inventory, limits},
    runs, sh, trial,
};

/// `argv[1]` of a process that makes sandboxes until it is killed.
const VICTIM: &str = "--make-sandboxes-until-killed";

/// `argv[1]` of a process that saves and copies sandboxes until it is killed.
const VICTIM_OF_LAYERS: &str = "--copy-sandboxes-until-killed";

/// `argv[1]` of a process that makes one sandbox with limits, and one of layers.
const NEXT: &str = "--make-one-sandbox";

/// Moments at which a parent is killed.
const KILLS: u32 = 200;

/// Moments at which a parent is killed whose sandboxes are of layers.
const KILLS_OF_LAYERS: u32 = 40;

/// Sandboxes of the churn test.
const CHURN: u32 = 2000;

fn main() {
    agentd_isolation::take_role();
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some(VICTIM) => victim(&args.next().unwrap()),
        Some(VICTIM_OF_LAYERS) => victim_of_layers(&args.next().unwrap()),
        Some(NEXT) => next(),
        _ => {}
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let mut arguments = Arguments::from_args();
    // They count what is there, so they take turns.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("thousands_of_sandboxes_leave_nothing".to_owned(), churn),
        trial("mounts_outlive_a_sandbox_by_a_moment_where_nobody_waits_for_them".to_owned(), mounts),
        trial("a_parent_killed_at_any_moment_leaves_nothing".to_owned(), killed_parents),
        trial("a_parent_killed_at_any_moment_leaves_layers_only_until_the_next_comes".to_owned(), killed_parents_of_layers),
        trial("a_killed_launcher_takes_its_sandboxes_along".to_owned(), killed_launchers),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

async fn churn() {
    // The launcher, and what is opened once.
    for name in ["linux-native", "host-direct", "container"] {
        let sandbox = bare(name).await;
        sh(&sandbox, ":").await;
        sandbox.destroy().await.unwrap();
    }
    let before = Inventory::take();
    for number in 0..CHURN {
        let name = ["host-direct", "linux-native", "container"][usize::try_from(number % 3).unwrap()];
        let limits = if number % 8 == 1 { limits() } else { Limits::default() };
        let sandbox = backend(name).create_sandbox(SandboxSpec { limits, ..SandboxSpec::default() }).await.unwrap();
        if number % 3 == 0 {
            sh(&sandbox, "sleep 1000 & setsid sleep 1000 & exit 0").await;
        }
        // Many are dropped instead, for a while all of them: nobody then reads what the launcher says.
        if number % 2 == 0 && !(500..1200).contains(&number) {
            sandbox.destroy().await.unwrap();
        }
    }
    bare("linux-native").await.destroy().await.unwrap();
    // Tasks of dropped sandboxes end when the runtime comes to them.
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let after = Inventory::take();
        if after.adds_nothing_to(&before) {
            return;
        }
        assert!(Instant::now() < patience, "left behind: {after:?}; before: {before:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn mounts() {
    for name in ["linux-native", "container"] {
        bare(name).await.destroy().await.unwrap();
        settled("the one before", 0);
        let sandbox = bare(name).await;
        settled(name, 1);
        sandbox.destroy().await.unwrap();
        settled(name, 0);
        // What is the caller's is no longer in use when a sandbox is destroyed: it could be on a device that is to be unplugged.
        let folder = tempfile::tempdir().unwrap();
        let grants = vec![grant(folder.path(), Access::ReadWrite)];
        let sandbox = backend(name).create_sandbox(SandboxSpec { grants, ..SandboxSpec::default() }).await.unwrap();
        settled(name, 0);
        sandbox.destroy().await.unwrap();
    }
}

/// Waits until the launchers keep so many mount namespaces.
fn settled(what: &str, views: usize) {
    let patience = Instant::now() + Duration::from_secs(20);
    while Inventory::take().views != views {
        assert!(Instant::now() < patience, "{what}: {:?}", Inventory::take());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn victim(mark: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for round in 0u64.. {
            let spec = SandboxSpec { limits: limits(), ..SandboxSpec::default() };
            let (native, direct) = (backend(if round % 2 == 0 { "linux-native" } else { "container" }), backend("host-direct"));
            let made = tokio::join!(native.create_sandbox(spec), direct.create_sandbox(SandboxSpec::default()));
            let (fenced, open) = (made.0.unwrap(), made.1.unwrap());
            let text = format!("sleep {mark} & setsid sleep {mark} & exit 0");
            tokio::join!(sh(&fenced, &text), sh(&open, &text));
            let handle = fenced.exec_streaming(support::script(&format!("setsid sleep {mark} & sleep {mark}"))).await.unwrap();
            open.destroy().await.unwrap();
            // Only root can, without a delegated cgroup.
            if fenced.suspend().await.is_ok() && round % 3 == 0 {
                fenced.resume().await.unwrap();
            }
            drop(handle);
            fenced.destroy().await.unwrap();
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
    for number in 0..KILLS_OF_LAYERS {
        let mut victim = start(VICTIM_OF_LAYERS, &mark);
        std::thread::sleep(Duration::from_millis(u64::from(number) * 2));
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

/// Waits until the host is as it was.
fn settle(before: &Inventory, mark: &str) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        // Orphans come here, because some inits take seconds to reap them.
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let (now, alive) = (Inventory::take(), runs(&format!("sleep {mark}")));
        if now.adds_nothing_to(before) && !alive {
            return;
        }
        assert!(Instant::now() < patience, "left behind: {now:?}, a command alive: {alive}; before: {before:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn killed_parents() {
    let mark = format!("99{}", std::process::id());
    let before = Inventory::take();
    for number in 0..KILLS {
        let mut victim = start_victim(&mark);
        // Any moment of its first 40 milliseconds, by which it has made several sandboxes.
        std::thread::sleep(Duration::from_micros(u64::from(number) * 200));
        victim.kill().unwrap();
        victim.wait().unwrap();
        settle(&before, &mark);
    }
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
        // It is dying, and nobody tells when it is dead.
        while fs::read_to_string(format!("/proc/{launcher}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::yield_now();
        }
        // What a dead launcher could not remove, the next one does when it makes its first group.
        let next = Command::new(std::env::current_exe().unwrap()).arg(NEXT).status().unwrap();
        assert!(next.success());
        settle(&before, &mark);
    }
}

/// What the next agentd does: one sandbox.
fn next() -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let spec = SandboxSpec { limits: limits(), ..SandboxSpec::default() };
        let sandbox = backend("linux-native").create_sandbox(spec).await.unwrap();
        sandbox.destroy().await.unwrap();
        // Not the registry's, which has its backends for as long as the process lives.
        let layers = support::layers::Layers::new();
        layers.create_sandbox(SandboxSpec::default()).await.unwrap().destroy().await.unwrap();
    });
    std::process::exit(0)
}
