//! The guest's side of connections: accepts one after the other, and serves the single sandbox of the guest.

use super::{
    MachineIdentity,
    frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
    inside::GuestRoot,
    protocol::{AttachRequest, FromGuest, ToGuest, path},
    sanitize::Failure,
    sync::GuestCopy,
    transport,
    work::{ConnectionEnd, ServedSandbox},
};
use agentd_core::{ControlReport, IsolationError, Sandbox};
use agentd_isolation::{egress::ports, sandbox::SharedKernelSandbox};
use agentd_kernel::{machine_identity, mount::names, namespace};
use agentd_log::LogFailure as _;
use std::{
    future::Future,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The file in which a sandbox looks up its own host name (`hosts(5)`).
const HOSTS: &str = "/etc/hosts";

/// The file with the sandbox's host name (`hostname(5)`).
const HOST_NAME: &str = "/etc/hostname";

/// The time limit for a new connection to send its purpose. During that time, other connections wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves connections, one after the other, until a shutdown is requested. Creates one sandbox with the directory `root` as its
/// root, and creates mount points and files in that directory. A connection that ends without being quiesced ends everything. In
/// any case the sandbox is destroyed before this call returns.
///
/// The process must be root of its machine, have called the role handler (`agentd::isolation::take_role`), and should have one
/// thread.
///
/// # Errors
/// Returns the error of `accept`, and the reason for an unexpected end of a connection.
pub async fn serve<A, F, R, W>(mut accept: A, root: PathBuf) -> io::Result<()>
where
    A: FnMut() -> F,
    F: Future<Output = io::Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let guest = GuestRoot::new(&root);
    let mut served = None;
    let ended = connections(&mut accept, &guest, &mut served).await;
    end(served.as_ref()).await;
    // The last transport is closed only now, because the host may then destroy the machine.
    ended.map(drop)
}

/// Destroys the sandbox, and flushes its written data to disk.
async fn end(served: Option<&ServedSandbox>) {
    if let Some(served) = served {
        served.thaw();
        // Processes that survive disappear with the machine, which ends next.
        served.sandbox.destroy().await.or_warn("destroy the guest's sandbox", served.sandbox.id());
    }
    rustix::fs::sync();
}

/// Serves connections until a shutdown is requested, and returns the last transport.
async fn connections<A, F, R, W>(accept: &mut A, guest: &Arc<GuestRoot>, served: &mut Option<ServedSandbox>) -> io::Result<(R, W)>
where
    A: FnMut() -> F,
    F: Future<Output = io::Result<(R, W)>>,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut quiesced: Option<(R, W)> = None;
    loop {
        let (mut reader, mut writer) = accept().await?;
        drop(quiesced.take());
        match attach(&mut reader, &mut writer, guest, served).await {
            Ok(true) => {}
            // The peer was not an agentd host, or has received the error as its answer.
            Ok(false) | Err(_) => continue,
        }
        let Some(served) = served.as_mut() else { continue };
        match served.serve(&mut reader, &mut writer).await.map_err(io::Error::other)? {
            ConnectionEnd::Quiesced => quiesced = Some((reader, writer)),
            ConnectionEnd::ShutDown => return Ok((reader, writer)),
        }
    }
}

/// Reads the purpose of a connection, carries it out, and answers. Returns true if the connection is to be served.
async fn attach<R, W>(
    reader: &mut R,
    writer: &mut W,
    guest: &Arc<GuestRoot>,
    served: &mut Option<ServedSandbox>,
) -> io::Result<bool>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let request = async {
        transport::greet(reader, writer).await?;
        transport::recv(reader, MAX_TO_GUEST).await
    };
    let prepared = match tokio::time::timeout(TIMEOUT, request).await.map_err(io::Error::from)?? {
        ToGuest::Attach(AttachRequest::Fill { number, place, changes }) => {
            return fill(reader, writer, guest, (number, path(place), changes)).await;
        }
        ToGuest::Attach(request) => prepare(request, guest, served).await,
        _ => Err(unexpected("the first request of a connection must be an attach request")),
    };
    let served = prepared.is_ok();
    transport::send(writer, &FromGuest::Attached(prepared.map_err(Failure::from)), MAX_FROM_GUEST).await?;
    Ok(served)
}

/// Fills a copy from the connection. Returns false, because such a connection is not served.
async fn fill<R, W>(
    reader: &mut R,
    writer: &mut W,
    guest: &Arc<GuestRoot>,
    (number, place, changes): (u32, PathBuf, bool),
) -> io::Result<bool>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let filled = GuestCopy::fill(&place, changes, reader).await;
    let failed = filled.is_err();
    let mut copies = guest.copies().await;
    let answer = filled.map(|held| drop(copies.insert(number, held))).map(|()| Vec::new()).map_err(Failure::from);
    transport::send(writer, &FromGuest::Attached(answer), MAX_FROM_GUEST).await?;
    if failed {
        // Closing a connection with unread data may also discard the answer, so the rest is read first.
        tokio::io::copy(reader, &mut tokio::io::sink()).await?;
    }
    Ok(false)
}

async fn prepare(
    request: AttachRequest,
    guest: &Arc<GuestRoot>,
    served: &mut Option<ServedSandbox>,
) -> Result<Vec<ControlReport>, IsolationError> {
    match (request, served) {
        (AttachRequest::New(mut spec), none @ None) => {
            let trust = spec.trust.take();
            let (spec, identity) = spec.into_spec();
            if let Some(identity) = &identity {
                become_machine(identity)?;
            }
            let ports = ports(&spec.network)?.tcp;
            let (sandbox, sockets) = guest.make(spec, trust).await?;
            if let Some(identity) = &identity {
                become_sandbox(identity, &sandbox).await?;
            }
            let controls = sandbox.controls().to_vec();
            *none = Some(ServedSandbox::new(guest.clone(), sandbox, (sockets, ports))?);
            Ok(controls)
        }
        (AttachRequest::Adopt(identity), Some(served)) => {
            become_machine(&identity)?;
            become_sandbox(&identity, &served.sandbox).await?;
            served.renew();
            Ok(served.sandbox.controls().to_vec())
        }
        (AttachRequest::Proceed { realtime_ns }, Some(served)) => {
            realtime_ns.map_or(Ok(()), machine_identity::set_clock)?;
            Ok(served.sandbox.controls().to_vec())
        }
        (AttachRequest::Fill { .. }, _) => Err(unexpected("copies must be filled before the sandbox is created")),
        (AttachRequest::New(_), Some(_)) => Err(unexpected("the sandbox already exists")),
        (_, None) => Err(unexpected("the sandbox does not exist yet")),
    }
}

/// Returns the error of a request that does not fit the state of the guest.
fn unexpected(reason: &str) -> IsolationError {
    IsolationError::Protocol(format!("attach to the guest: {reason}"))
}

/// Sets the identity of the machine. The random seed comes first, because the other steps may need random numbers.
fn become_machine(identity: &MachineIdentity) -> Result<(), IsolationError> {
    machine_identity::seed(&identity.seed)?;
    identity.realtime_ns.map_or(Ok(()), machine_identity::set_clock)?;
    machine_identity::set_host_name(identity.hostname.as_bytes())?;
    Ok(())
}

async fn become_sandbox(identity: &MachineIdentity, sandbox: &SharedKernelSandbox) -> Result<(), IsolationError> {
    namespace::rename(sandbox.pidfd().as_fd(), identity.hostname.as_bytes())?;
    // Files are read and written from inside the sandbox, because its root may contain malicious links.
    let read = async |path: &str| match sandbox.read_file(Path::new(path), names::MAX_FILE_BYTES).await {
        Ok(content) => Ok(Some(content)),
        // The sandbox has removed the file or replaced it.
        Err(IsolationError::File { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let hosts = read(HOSTS).await?;
    let host_name = read(HOST_NAME).await?.filter(|present| {
        // A name that the sandbox set itself is kept, like all other saved state.
        hosts.as_deref().and_then(names::name_in) == Some(present.trim_ascii())
    });
    let files = [
        ("/etc/machine-id", Some(identity.machine_id_text().into_bytes())),
        (HOST_NAME, host_name.map(|_| format!("{}\n", identity.hostname).into_bytes())),
        (HOSTS, hosts.map(|present| names::renamed(&present, &identity.hostname))),
    ];
    for (path, content) in files {
        let Some(content) = content else { continue };
        match sandbox.write_file(Path::new(path), &content).await {
            // A file that the sandbox has replaced is the sandbox's choice, and not an error.
            Ok(()) | Err(IsolationError::File { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[tokio::test(start_paused = true)]
    async fn silent_connection_does_not_block_next_connection() {
        let (mut silent, first) = tokio::io::duplex(100);
        let (mut host, second) = tokio::io::duplex(100);
        let mut transports = VecDeque::from([first, second]);
        let accept = move || {
            let transport = transports.pop_front();
            async move { transport.map(tokio::io::split).ok_or_else(|| io::Error::other("no more transports")) }
        };
        let served = tokio::spawn(serve(accept, PathBuf::from("/no/such/root")));
        let (mut reader, mut writer) = tokio::io::split(&mut host);
        transport::greet(&mut reader, &mut writer).await.unwrap();
        let request = ToGuest::Attach(AttachRequest::Proceed { realtime_ns: None });
        transport::send(&mut writer, &request, MAX_TO_GUEST).await.unwrap();
        let answer = transport::recv(&mut reader, MAX_FROM_GUEST).await.unwrap();
        assert!(matches!(answer, FromGuest::Attached(Err(Failure::Other(_)))), "{answer:?}");
        assert_eq!(served.await.unwrap().unwrap_err().to_string(), "no more transports");
        tokio::io::AsyncWriteExt::write_all(&mut silent, b"late").await.unwrap_err();
    }
}
