//! Tests that create many machines of `firecracker`: nothing of them may remain on the host, even if agentd is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "microvm/machines.rs"]
mod machines;
#[path = "support/mod.rs"]
mod support;

use machines::{groups, kill, settle, small, trial};
use std::{fs, path::Path, time::Instant};
use support::{out, sh};

/// The number of machines that are created, used and destroyed one after the other.
const CYCLES: u32 = 50;

/// The number of kills of a process with machines, each at another moment.
const KILLS: u32 = 9;

/// `argv[1]` of such a process.
const VICTIM: &str = "--make-machines-until-killed";

fn main() -> ! {
    agentd::isolation::take_role();
    if std::env::args().nth(1).as_deref() == Some(VICTIM) {
        victim();
    }
    machines::run(vec![
        trial("leftovers_of_killed_agentd_are_removed_at_next_start", leftovers_of_killed_agentd_are_removed_at_next_start),
        trial("fifty_sandboxes_leave_nothing", fifty_sandboxes_leave_nothing),
    ])
}

/// Creates a machine, uses it, restores a snapshot, and destroys it.
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

async fn leftovers_of_killed_agentd_are_removed_at_next_start() {
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
        // The moments cover creation, use and destruction of the first machine, and the start of the second.
        tokio::time::sleep(whole.mul_f64(1.2 * f64::from(number + 1) / f64::from(KILLS))).await;
        // Kill agentd alone, or first the shims, which would clean up, or first the processes that agentd waits for.
        match number % 3 {
            0 => {}
            1 => kill("agentd-shim"),
            _ => ["jailer", "firecracker"].into_iter().for_each(kill),
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        // The next start removes what was left.
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
