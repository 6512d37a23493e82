//! Hostile guests that receive a request for the changes in copies.

use super::*;
use crate::{
    Copies,
    frame::{StreamId, StreamKind},
};
use agentd_core::{Access, Grant};
use std::borrow::Cow;

/// Returns a granted directory, and an [`Attach`] for a guest that has a copy of it. Changes may have at most 1000 bytes.
async fn granted() -> (tempfile::TempDir, Attach) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "mine").unwrap();
    let grant = Grant { protect: vec!["file".into()], ..Grant::new(dir.path(), Access::ReadWrite) };
    let copies = Copies::plan(&[grant], Path::new("/copies"), 1000).await.unwrap();
    (dir, Attach::New(Box::new(GuestSpec { spec: SandboxSpec::default(), identity: None, copies })))
}

/// Runs a command in a guest that answers the request for changes with `bytes`, or never. Returns the granted directory, whether
/// the machine was killed, and the outcome.
async fn changes(bytes: Option<Vec<u8>>) -> (tempfile::TempDir, bool, Result<Outcome, IsolationError>) {
    let (dir, how) = granted().await;
    let (sandbox, machine) = attached(how, |mut guest| async move {
        let ToGuest::Exec(exec) = guest.recv().await else { panic!() };
        let end = End { reason: EndReason::Exited, exit_code: Some(0), signal: None, usage: Usage::default() };
        guest.send(FromGuest::Ended { id: exec.id, end }).await;
        let ToGuest::Changes { id, number: 0, taken: true } = guest.recv().await else { panic!() };
        let stream = StreamId { operation: id, kind: StreamKind::Output };
        if let Some(bytes) = bytes {
            guest.frame(&Frame::Data { stream, bytes: Cow::Owned(bytes) }).await;
            guest.frame(&Frame::Eof { stream }).await;
            guest.send(FromGuest::Done { id, bytes: 0 }).await;
        }
        // The guest stays connected.
        std::future::pending::<()>().await;
    })
    .await;
    let outcome = sandbox.exec(true_command()).await;
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
    // Read before the sandbox is dropped, which would kill the machine as well.
    (dir, machine.is_killed(), outcome)
}

/// Returns a head in the transfer format: a path and its content.
fn head(path: &[u8], what: &[u8]) -> Vec<u8> {
    let head = [&[u8::try_from(path.len()).unwrap()], path, what].concat();
    [&u32::try_from(head.len()).unwrap().to_le_bytes()[..], &head].concat()
}

const END: [u8; 4] = [0; 4];
/// [`Content::Directory`] with the mode 7, and [`Content::Nothing`].
const DIRECTORY: [u8; 2] = [1, 7];
const NOTHING: [u8; 1] = [0];

#[tokio::test]
async fn valid_changes_are_applied_and_machine_keeps_running() {
    let (dir, killed, outcome) = changes(Some(END.to_vec())).await;
    assert_eq!(outcome.unwrap().exit_code, Some(0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(!killed);
    let (dir, _, outcome) = changes(Some([head(b"new", &DIRECTORY), END.to_vec()].concat())).await;
    assert_eq!(outcome.unwrap().exit_code, Some(0));
    assert!(dir.path().join("new").is_dir());
}

#[tokio::test]
async fn hostile_changes_kill_machine_and_change_no_file() {
    let whole = |head: Vec<u8>| [head, END.to_vec()].concat();
    for bytes in [
        whole(head(b"../x", &DIRECTORY)),
        whole(head(b"/x", &DIRECTORY)),
        whole(head(b"file", &NOTHING)),
        whole(head(b"x", &[9])),
        whole(head(b"x", &[1, 7, 0])),
        vec![0xff; 4],
        // The transfer is truncated.
        head(b"x", &DIRECTORY)[..3].to_vec(),
    ] {
        let (dir, killed, outcome) = changes(Some(bytes.clone())).await;
        assert!(matches!(outcome, Err(IsolationError::Protocol(_))), "{bytes:?}: {outcome:?}");
        assert!(killed, "{bytes:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn guest_without_answer_to_changes_request_is_killed() {
    let (_, killed, outcome) = changes(None).await;
    assert!(
        matches!(&outcome, Err(IsolationError::MachineLost(why)) if why.contains("took too long to send the changes")),
        "{outcome:?}"
    );
    assert!(killed);
}
