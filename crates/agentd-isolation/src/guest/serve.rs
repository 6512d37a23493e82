//! The guest's side: connections, one after the other, to the one sandbox that is made there.

use super::{
    Identity, carrier,
    copies::Held,
    frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
    inside::Inside,
    protocol::{Attaching, FromGuest, ToGuest, path},
    told::Failure,
    work::{Ended, Work},
};
use crate::sandbox::LinkedSandbox;
use agentd_core::{IsolationError, LayerReport, Sandbox};
use agentd_kernel::{individual, namespace};
use std::{
    future::Future,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// How long one that connects may take to say what for: others wait behind it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves connections, one after the other, until told to end: makes one sandbox with `root` as its root, which is changed by it. A
/// connection that ends without having been made to rest ends everything, and nothing is left of the sandbox in any case.
///
/// The process must be root of its machine, have called [`crate::take_role`], and should have one thread.
///
/// # Errors
/// What `accept` says, and the end of a connection that was not asked for.
pub async fn serve<A, F, R, W>(mut accept: A, root: PathBuf) -> io::Result<()>
where
    A: FnMut() -> F,
    F: Future<Output = io::Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let around = Inside::new(&root);
    let mut work = None;
    let served = connections(&mut accept, &around, &mut work).await;
    end(work.as_ref()).await;
    // Its carrier, if it has one still, ends only now: its host may end the machine then.
    served.map(drop)
}

/// Ends the sandbox, and has what it wrote on disk.
async fn end(work: Option<&Work>) {
    if let Some(work) = work {
        work.thaw();
        // The machine ends next, and with it whatever could not be ended.
        work.sandbox.destroy().await.ok();
    }
    rustix::fs::sync();
}

/// Gives the last carrier.
async fn connections<A, F, R, W>(accept: &mut A, around: &Arc<Inside>, work: &mut Option<Work>) -> io::Result<(R, W)>
where
    A: FnMut() -> F,
    F: Future<Output = io::Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut resting: Option<(R, W)> = None;
    loop {
        let (mut reader, mut writer) = accept().await?;
        drop(resting.take());
        match attach(&mut reader, &mut writer, around, work).await {
            Ok(true) => {}
            // Not a host of ours, or one that wanted what cannot be: it has been told.
            Ok(false) | Err(_) => continue,
        }
        let Some(work) = work.as_mut() else { continue };
        match work.serve(&mut reader, &mut writer).await.map_err(io::Error::other)? {
            Ended::ToRest => resting = Some((reader, writer)),
            Ended::ForEver => return Ok((reader, writer)),
        }
    }
}

/// Hears what a connection is for, does that, and answers. Whether it is served.
async fn attach<R, W>(reader: &mut R, writer: &mut W, around: &Arc<Inside>, work: &mut Option<Work>) -> io::Result<bool>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let said = async {
        carrier::greet(reader, writer).await?;
        carrier::hear(reader, MAX_TO_GUEST).await
    };
    let asked = match tokio::time::timeout(PATIENCE, said).await.map_err(io::Error::from)?? {
        ToGuest::Attach(Attaching::Fill { number, place, changes }) => {
            return fill(reader, writer, around, (number, path(place), changes)).await;
        }
        ToGuest::Attach(asked) => prepare(asked, around, work).await,
        _ => Err(invalid("a request before its connection")),
    };
    let served = asked.is_ok();
    carrier::say(writer, &FromGuest::Attached(asked.map_err(Failure::from)), MAX_FROM_GUEST).await?;
    Ok(served)
}

/// Takes a copy. Such a connection is not served.
async fn fill<R, W>(
    reader: &mut R,
    writer: &mut W,
    around: &Arc<Inside>,
    (number, place, changes): (u32, PathBuf, bool),
) -> io::Result<bool>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let filled = Held::fill(&place, changes, reader).await;
    let failed = filled.is_err();
    let mut copies = around.copies().await;
    let answer = filled.map(|held| drop(copies.insert(number, held))).map(|()| Vec::new()).map_err(Failure::from);
    carrier::say(writer, &FromGuest::Attached(answer), MAX_FROM_GUEST).await?;
    if failed {
        // A connection that is closed with something unread may lose the answer, too.
        tokio::io::copy(reader, &mut tokio::io::sink()).await?;
    }
    Ok(false)
}

async fn prepare(asked: Attaching, around: &Arc<Inside>, work: &mut Option<Work>) -> Result<Vec<LayerReport>, IsolationError> {
    match (asked, work) {
        (Attaching::New(spec), none @ None) => {
            let (spec, identity) = spec.into_spec();
            if let Some(identity) = &identity {
                become_machine(identity)?;
            }
            let sandbox = around.make(spec).await?;
            if let Some(identity) = &identity {
                become_sandbox(identity, &sandbox).await?;
            }
            let layers = sandbox.layers().to_vec();
            *none = Some(Work::new(around.clone(), sandbox));
            Ok(layers)
        }
        (Attaching::Adopt(identity), Some(work)) => {
            become_machine(&identity)?;
            become_sandbox(&identity, &work.sandbox).await?;
            work.renew();
            Ok(work.sandbox.layers().to_vec())
        }
        (Attaching::Proceed { realtime_ns }, Some(work)) => {
            realtime_ns.map_or(Ok(()), individual::set_clock)?;
            Ok(work.sandbox.layers().to_vec())
        }
        (Attaching::Fill { .. }, _) => Err(invalid("a copy comes before the sandbox")),
        (Attaching::New(_), Some(_)) => Err(invalid("the sandbox is made already")),
        (_, None) => Err(invalid("there is no sandbox yet")),
    }
}

fn invalid(reason: &str) -> IsolationError {
    IsolationError::Invalid { what: "attaching to the guest".to_owned(), reason: reason.to_owned() }
}

/// Random numbers first: whatever comes next may need some.
fn become_machine(identity: &Identity) -> Result<(), IsolationError> {
    individual::seed(&identity.seed)?;
    identity.realtime_ns.map_or(Ok(()), individual::set_clock)?;
    individual::set_host_name(identity.hostname.as_bytes())?;
    Ok(())
}

async fn become_sandbox(identity: &Identity, sandbox: &LinkedSandbox) -> Result<(), IsolationError> {
    namespace::rename(sandbox.pidfd().as_fd(), identity.hostname.as_bytes())?;
    // Written from inside: its root may have links that lead nowhere good.
    match sandbox.write_file(Path::new("/etc/machine-id"), identity.machine_id_text().as_bytes()).await {
        // A root without that directory has no such file.
        Err(IsolationError::File { errno: libc::ENOENT, .. }) => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[tokio::test(start_paused = true)]
    async fn one_that_connects_and_says_nothing_does_not_hold_the_next_up() {
        let (mut silent, first) = tokio::io::duplex(100);
        let (mut host, second) = tokio::io::duplex(100);
        let mut carriers = VecDeque::from([first, second]);
        let accept = move || {
            let carrier = carriers.pop_front();
            async move { carrier.map(tokio::io::split).ok_or_else(|| io::Error::other("no more")) }
        };
        let served = tokio::spawn(serve(accept, PathBuf::from("/no/such/root")));
        let (mut reader, mut writer) = tokio::io::split(&mut host);
        carrier::greet(&mut reader, &mut writer).await.unwrap();
        let asked = ToGuest::Attach(Attaching::Proceed { realtime_ns: None });
        carrier::say(&mut writer, &asked, MAX_TO_GUEST).await.unwrap();
        let answer = carrier::hear(&mut reader, MAX_FROM_GUEST).await.unwrap();
        assert!(matches!(answer, FromGuest::Attached(Err(Failure::Invalid { .. }))));
        assert_eq!(served.await.unwrap().unwrap_err().to_string(), "no more");
        tokio::io::AsyncWriteExt::write_all(&mut silent, b"late").await.unwrap_err();
    }
}
