//! Tests of `firecracker` in addition to the conformance suite: snapshots, copied grants, and clean-up. They need a host on which
//! Firecracker runs, with its programs and assets installed; `./test` runs them in the lab.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "microvm/machines.rs"]
mod machines;
#[path = "support/protected.rs"]
mod protected;
#[path = "microvm/rate.rs"]
mod rate;
#[path = "microvm/saved.rs"]
mod saved;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{Access, Bytes, Command, IsolationError, Limits, Sandbox, SandboxSpec, StdinSource, data_directory};
use machines::{NAME, groups, kill, settle, small, trial};
use std::{fs, path::Path, sync::Arc, time::Duration};
use support::{backend, directory, grant, out, script, sh, with};

fn main() -> ! {
    agentd::isolation::take_role();
    let trials = vec![
        trial("forks_continue_command_with_new_identities", saved::forks_continue_command_with_new_identities),
        trial("snapshot_of_memory_and_disk_is_consistent", saved::snapshot_of_memory_and_disk_is_consistent),
        trial(
            "fork_of_suspended_sandbox_runs_and_origin_stays_suspended",
            saved::fork_of_suspended_sandbox_runs_and_origin_stays_suspended,
        ),
        trial(
            "cancelled_snapshot_does_not_resume_suspended_sandbox",
            saved::cancelled_snapshot_does_not_resume_suspended_sandbox,
        ),
        trial("previous_machines_of_restore_are_removed", saved::previous_machines_of_restore_are_removed),
        trial("restore_uses_spare_and_works_without_killed_spare", saved::restore_uses_spare_and_works_without_killed_spare),
        trial(
            "preloaded_spare_has_state_of_snapshot_and_new_identity",
            saved::preloaded_spare_has_state_of_snapshot_and_new_identity,
        ),
        trial(
            "commands_in_preloaded_spare_do_not_run_until_restore",
            saved::commands_in_preloaded_spare_do_not_run_until_restore,
        ),
        trial("resource_usage_reports_memory_of_machine", resource_usage_reports_memory_of_machine),
        trial("disk_rate_of_machine_is_limited", rate::disk_rate_of_machine_is_limited),
        trial("output_is_unchanged_if_host_reads_late", output_is_unchanged_if_host_reads_late),
        trial("granted_files_are_copied_in_and_back", granted_files_are_copied_in_and_back),
        trial("changes_of_protected_paths_in_machine_are_reported_by_command_line", async || {
            protected::assert_changes_are_reported(NAME, &data_directory().unwrap(), &["--memory", "64M"]);
        }),
        trial("forks_contain_copies_of_read_only_grants", forks_contain_copies_of_read_only_grants),
        trial(
            "leftovers_of_killed_firecracker_or_shim_are_removed_at_next_start",
            leftovers_of_killed_firecracker_or_shim_are_removed_at_next_start,
        ),
    ];
    machines::run(trials)
}

/// A command that counts by the length of a file, and never ends. It starts no process, because up to six machines run it at the
/// same time, possibly emulated.
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
    assert!(read > 0, "end of the stream");
    buffer[..read].copy_from_slice(&bytes[..read]);
    read
}

/// Returns the memory that the machine uses.
async fn memory(sandbox: &Arc<dyn Sandbox>) -> u64 {
    sandbox.resource_usage().await.unwrap().machine_memory.unwrap()
}

async fn resource_usage_reports_memory_of_machine() {
    const TAKEN: u64 = 48 << 20;
    let sandbox = small().await;
    // Cache the interpreter's files first.
    sh(&sandbox, "python3 -c pass").await;
    let before = memory(&sandbox).await;
    let text = format!("x = bytearray({TAKEN}); print(len(x), flush=True); input()");
    let command = Command { argv: ["/usr/bin/python3", "-c", &text].map(Into::into).into(), ..script("") };
    let mut taking = sandbox.exec_streaming(Command { stdin: StdinSource::Stream, ..command }).await.unwrap();
    let streams = taking.take_streams();
    read(streams.stdout.as_ref().unwrap(), &mut [0; 1]).await;
    let peak = memory(&sandbox).await;
    assert!(peak > before + TAKEN / 2, "{before} bytes, and {peak} with {TAKEN} more");
    drop(streams);
    taking.wait().await.unwrap();
    let after = memory(&sandbox).await;
    assert!(after < peak - TAKEN / 2, "{peak} bytes, and {after} with {TAKEN} less");
    sandbox.destroy().await.unwrap();
}

/// Repeatedly stops reading from the machine, so that Firecracker can write only parts of the guest's packets to its socket.
async fn output_is_unchanged_if_host_reads_late() {
    let sandbox = small().await;
    // Several streams together may have more bytes in flight than fit into the socket's buffer.
    let commands: Vec<_> = (1..=4u32)
        .map(|first| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move {
                let (first, last) = (first * 1_000_000, first * 1_000_000 + 200_000);
                let command = Command { capture: 4 << 20, ..script(&format!("seq {first} {last}")) };
                let outcome = sandbox.exec(command).await.unwrap();
                let expected: String = (first..=last).map(|number| format!("{number}\n")).collect();
                assert!(out(&outcome) == expected, "{} of {} bytes", outcome.stdout.total(), expected.len());
            })
        })
        .collect();
    while !commands.iter().all(tokio::task::JoinHandle::is_finished) {
        // Blocks the only thread of the runtime, which also reads from the machine.
        std::thread::sleep(Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for command in commands {
        command.await.unwrap();
    }
    sandbox.destroy().await.unwrap();
}

/// Runs a shell script in a directory.
async fn sh_in(sandbox: &Arc<dyn Sandbox>, place: &Path, text: &str) -> String {
    let outcome = sandbox.exec(Command { cwd: Some(place.to_path_buf()), ..script(text) }).await.unwrap();
    assert_eq!(outcome.exit_code, Some(0), "{text}: {outcome:?}");
    out(&outcome)
}

async fn granted_files_are_copied_in_and_back() {
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

async fn forks_contain_copies_of_read_only_grants() {
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

async fn leftovers_of_killed_firecracker_or_shim_are_removed_at_next_start() {
    small().await.destroy().await.unwrap();
    let before = groups();
    for victim in ["firecracker", "agentd-shim"] {
        let sandbox = small().await;
        let _counting = sandbox.exec_streaming(script(COUNT)).await.unwrap();
        counts_beyond(&sandbox, 0).await;
        kill(victim);
        while sandbox.is_alive().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(sandbox.exec(script(":")).await, Err(IsolationError::MachineLost(_))));
        drop(sandbox);
        // The next start removes what was left.
        let backend = backend(NAME);
        backend.create_sandbox(SandboxSpec::default()).await.unwrap().destroy().await.unwrap();
        settle(&before).await;
    }
}
