//! Guests that are asked what they have changed, and do not tell.

use super::*;
use crate::guest::{
    Copies,
    frame::{StreamId, Which},
};
use agentd_core::{Access, Grant};
use std::borrow::Cow;

/// A directory that is granted, and how a guest is attached to that has a copy of it. What it changes may have 1000 bytes.
async fn granted() -> (tempfile::TempDir, Attach) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "mine").unwrap();
    let grant = Grant { path: dir.path().to_path_buf(), target: None, access: Access::ReadWrite, protect: vec!["file".into()] };
    let copies = Copies::plan(&[grant], Path::new("/copies"), 1000).await.unwrap();
    (dir, Attach::New(Box::new(GuestSpec { spec: SandboxSpec::default(), identity: None, copies })))
}

/// What a command in it comes to when the guest answers the question for its changes with `bytes`, or does not; and whether the machine is
/// killed for that.
async fn changes(bytes: Option<Vec<u8>>) -> (tempfile::TempDir, bool, Result<Outcome, IsolationError>) {
    let (dir, how) = granted().await;
    let (sandbox, machine) = attached(how, |mut guest| async move {
        let ToGuest::Exec(exec) = guest.hear().await else { panic!() };
        let end = End { reason: EndReason::Exited, exit_code: Some(0), signal: None, usage: Usage::default() };
        guest.say(FromGuest::Ended { id: exec.id, end }).await;
        let ToGuest::Changes { id, number: 0, taken: true } = guest.hear().await else { panic!() };
        let stream = StreamId { of: id, which: Which::Output };
        if let Some(bytes) = bytes {
            guest.frame(&Frame::Data { stream, bytes: Cow::Owned(bytes) }).await;
            guest.frame(&Frame::Eof { stream }).await;
            guest.say(FromGuest::Done { id, bytes: 0 }).await;
        }
        // It does not go away.
        std::future::pending::<()>().await;
    })
    .await;
    let outcome = sandbox.exec(true_command()).await;
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
    // Before the sandbox is dropped, which would end the machine as well.
    (dir, machine.is_killed(), outcome)
}

/// A head, as postcard has it: a path, and what is there.
fn head(path: &[u8], what: &[u8]) -> Vec<u8> {
    let head = [&[u8::try_from(path.len()).unwrap()], path, what].concat();
    [&u32::try_from(head.len()).unwrap().to_le_bytes()[..], &head].concat()
}

const END: [u8; 4] = [0; 4];
/// [`What::Directory`] with the mode 7, and nothing.
const DIRECTORY: [u8; 2] = [1, 7];
const NOTHING: [u8; 1] = [0];

#[tokio::test]
async fn one_that_changed_nothing_or_something_goes_on() {
    let (dir, killed, outcome) = changes(Some(END.to_vec())).await;
    assert_eq!(outcome.unwrap().exit_code, Some(0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(!killed);
    let (dir, _, outcome) = changes(Some([head(b"new", &DIRECTORY), END.to_vec()].concat())).await;
    assert_eq!(outcome.unwrap().exit_code, Some(0));
    assert!(dir.path().join("new").is_dir());
}

#[tokio::test]
async fn one_that_asks_for_what_it_may_not_loses_its_machine_and_changes_nothing() {
    let whole = |head: Vec<u8>| [head, END.to_vec()].concat();
    for bytes in [
        whole(head(b"../x", &DIRECTORY)),
        whole(head(b"/x", &DIRECTORY)),
        whole(head(b"file", &NOTHING)),
        whole(head(b"x", &[9])),
        whole(head(b"x", &[1, 7, 0])),
        vec![0xff; 4],
        // It ends before its end.
        head(b"x", &DIRECTORY)[..3].to_vec(),
    ] {
        let (dir, killed, outcome) = changes(Some(bytes.clone())).await;
        assert!(matches!(outcome, Err(IsolationError::Protocol(_))), "{bytes:?}: {outcome:?}");
        assert!(killed, "{bytes:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_keeps_its_host_waiting_loses_its_machine() {
    let (_, killed, outcome) = changes(None).await;
    assert!(matches!(&outcome, Err(IsolationError::Lost(why)) if why.contains("kept its host waiting")), "{outcome:?}");
    assert!(killed);
}
