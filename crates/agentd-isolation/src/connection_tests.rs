use super::*;
use crate::ready;
use agentd_supervisor::{
    channel::send,
    protocol::{self, Event},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{
    io::Write,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::Child,
};

/// Starts a process that is not a supervisor. Returns the connection to it, the task of the connection, the peer's end of the
/// channel, and the process.
fn impostor() -> (Arc<SupervisorConnection>, JoinHandle<()>, OwnedFd, Child) {
    let child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    let socket = ours.try_clone().unwrap();
    let channel = ready::channel(Channel::new(ours, protocol::MAX_EVENT)).unwrap();
    let (connection, reader) =
        SupervisorConnection::start(channel, socket, pidfd, Traits { namespaced: true, ..Traits::default() });
    (connection, reader, theirs, child)
}

async fn loses_its_sandbox(send: impl FnOnce(&SupervisorConnection, OwnedFd)) {
    let (connection, reader, theirs, mut child) = impostor();
    let (_, mut events) = connection.listen();
    send(&connection, theirs);
    reader.await.unwrap();
    while events.recv().await.is_some() {}
    assert!(!connection.is_alive());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(connection.listen().1.recv().await.is_none());
}

fn ended(id: u32) -> Event {
    Event::Ended { id, status: 0, usage: ExecUsage::default(), process_limit: false }
}

#[tokio::test(start_paused = true)]
async fn max_wait_pauses_while_files_are_frozen() {
    let (connection, _reader, _theirs, mut child) = impostor();
    let (ten, began) = (Duration::from_secs(10), tokio::time::Instant::now());
    connection.unfrozen_for(ten).await;
    assert_eq!(began.elapsed(), ten);
    let frozen_flag = connection.frozen_flag.clone();
    tokio::spawn(async move {
        tokio::time::sleep(ten / 2).await;
        frozen_flag.send_replace(true);
        tokio::time::sleep(ten * 3).await;
        frozen_flag.send_replace(false);
    });
    connection.unfrozen_for(ten).await;
    assert_eq!(began.elapsed(), ten + ten / 2 + ten * 3 + ten);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn supervisor_sending_malformed_frames_has_its_sandbox_killed() {
    let bytes: [&[u8]; 4] = [b"garbage garbage garbage", &[0xff; 64], &[3, 0, 0, 0, 0, 99, 99, 99], &[1, 0, 0, 0, 0]];
    for bytes in bytes {
        loses_its_sandbox(|_, peer| std::fs::File::from(peer).write_all(bytes).unwrap()).await;
    }
    loses_its_sandbox(|_, peer| {
        let hello = Event::Hello {
            version: protocol::VERSION,
            controls: Ok(Vec::new()),
            watches: Vec::new(),
            sockets: Vec::new(),
            owner: None,
        };
        send(peer.as_fd(), &hello, &[]).unwrap();
    })
    .await;
    loses_its_sandbox(|_, peer| send(peer.as_fd(), &Event::Terminal { id: 1 }, &[]).unwrap()).await;
}

#[tokio::test]
async fn supervisor_flooding_an_exec_with_events_has_its_sandbox_killed() {
    loses_its_sandbox(|_, peer| {
        for _ in 0..=MAX_QUEUED_EVENTS {
            send(peer.as_fd(), &ended(1), &[]).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn usage_reported_by_supervisor_saturates() {
    let (connection, reader, theirs, mut child) = impostor();
    let (id, mut events) = connection.listen();
    let max = ExecUsage { user_us: u64::MAX, system_us: u64::MAX, max_rss_kib: u64::MAX };
    for id in [id + 1, id] {
        send(theirs.as_fd(), &Event::Ended { id, status: 0, usage: max, process_limit: false }, &[]).unwrap();
    }
    assert!(matches!(events.recv().await, Some(ExecEvent::Ended { .. })));
    assert_eq!(connection.usage().peak_memory, u64::MAX);
    reader.abort();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn events_of_unknown_execs_are_ignored() {
    let (connection, reader, theirs, mut child) = impostor();
    let (id, mut events) = connection.listen();
    for other in 100..200 {
        send(theirs.as_fd(), &ended(other), &[]).unwrap();
    }
    send(theirs.as_fd(), &ended(id), &[]).unwrap();
    assert!(matches!(events.recv().await, Some(ExecEvent::Ended { status: 0, .. })));
    assert!(connection.is_alive());
    reader.abort();
    child.kill().unwrap();
    child.wait().unwrap();
}
