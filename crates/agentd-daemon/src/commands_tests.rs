//! Tests of comparisons while a client waits.

use super::*;
use crate::protection::Watches;
use agentd_core::{Access, EndReason, Grant, PtySize};
use agentd_isolation::protect::{self, Cause};
use std::os::unix::net::UnixStream;

/// The protected paths of a directory, whose comparison waits until the returned lock is dropped, and both ends of a connection.
struct Waiting {
    root: tempfile::TempDir,
    _logs: tempfile::TempDir,
    watched: SharedWatch,
    server: Connection,
    client: Connection,
}

impl Waiting {
    async fn new() -> Self {
        let [root, logs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let protect = protect::names(root.path()).unwrap();
        let grant = Grant { protect, ..Grant::new(root.path(), Access::ReadWrite) };
        let folder = logs.path().to_path_buf();
        let name = "dev".parse().unwrap();
        let watched = Watches::default().get(&name, vec![grant], folder, &Interrupt::default()).await.unwrap();
        let (server, client) = UnixStream::pair().unwrap();
        let [server, client] = [server, client].map(|end| Connection::new(end).unwrap());
        Self { root, _logs: logs, watched, server, client }
    }

    fn change(&self) {
        std::fs::write(self.root.path().join(".envrc"), "evil").unwrap();
    }
}

#[tokio::test]
async fn signal_or_end_from_the_client_ends_the_comparison_after_its_command() {
    for message in [ExecMessage::Signal(2), ExecMessage::End(EndReason::Cancelled)] {
        let mut waiting = Waiting::new().await;
        waiting.change();
        let comparison = waiting.watched.lock_comparison().await;
        waiting.client.send(&message, &[]).unwrap();
        let interrupt = Interrupt::default();
        let report = compare_after(&waiting.watched, &interrupt, &mut waiting.server).await;
        assert_eq!(report.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::Interrupted], "{message:?}");
        drop(comparison);
    }
}

#[tokio::test]
async fn comparison_after_a_command_goes_on_after_a_resize_and_without_its_client() {
    let mut waiting = Waiting::new().await;
    waiting.change();
    let comparison = waiting.watched.lock_comparison().await;
    waiting.client.send(&ExecMessage::Resize(PtySize { rows: 1, cols: 1 }), &[]).unwrap();
    drop(waiting.client);
    let interrupt = Interrupt::default();
    let end = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(comparison);
    };
    let (report, ()) = tokio::join!(compare_after(&waiting.watched, &interrupt, &mut waiting.server), end);
    assert_eq!((report.changes.len(), report.gaps.is_empty()), (1, true), "{report:?}");
}
