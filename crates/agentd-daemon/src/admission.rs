//! Decides which clients are served: by the process that connected, and by the key of a client in other namespaces.
//!
//! Sandboxes cannot reach the socket. These checks are a second barrier: the payload of a sandbox that could reach the socket may
//! have the user's uid. Before a client in other namespaces has proven that it has the key, the daemon reads only two messages
//! from it. These messages have a fixed length, contain only numbers, and carry no file descriptors.

use crate::{
    connection::Connection,
    error::{DaemonError, KeyRefusal},
    handshake::{Nonce, Nonces, Tag},
    key::{self, Tags},
    protocol::{Answer, Failure, Hello, MAX_FRAME, Reply, Request, VERSION},
    waiting::Waiting,
};
use agentd_kernel::{
    mount::OwnMounts,
    peer::{self, OtherNamespaces, Peer, PeerNamespaces},
};
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    channel::ChannelError,
    protocol::{decode, encode},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

/// The time limit for a client in other namespaces to prove that it has the key.
pub(crate) const PROOF_TIMEOUT: Duration = Duration::from_secs(5);

/// A client whose process was verified.
pub(crate) struct Candidate {
    pub connection: Connection,
    pub peer: Peer,
}

/// The reasons why no request was received from a client.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The client disconnected.
    Gone(ChannelError),
    /// The client sent a message of another version of the protocol, with this number.
    Version(u32),
    /// The client sent bytes that are not a message of this version of the protocol.
    Unreadable(String),
    /// The client and the daemon did not prove to each other that they have the key.
    Key(DaemonError),
}

impl From<ChannelError> for Refusal {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Frame(error) => Self::Unreadable(error.to_string()),
            error => Self::Gone(error),
        }
    }
}

/// Verifies the process that connected. `own` is the daemon's own mount namespace, if it has one. A refused process receives the
/// reason: a fixed text of agentd, in which a uid is the only variable part. Nothing is read from that process.
pub(crate) fn verify(socket: UnixStream, own: Option<&OwnMounts>) -> io::Result<Candidate> {
    let verified = peer::verify(socket.as_fd(), own);
    let connection = Connection::new(socket)?;
    match verified {
        Ok(peer) => Ok(Candidate { connection, peer }),
        Err(refused) => {
            let reason = Failure::Other(format!("connect to the sandbox daemon: the daemon refused this client: {refused}"));
            connection.send(&Reply::Failed(reason), &[]).or_debug("send the reason to a refused client", "socket");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, refused))
        }
    }
}

/// Receives requests from the clients that may send them.
pub(crate) struct Admission {
    /// The clients for whose proof the daemon waits.
    waiting: Waiting<Option<PeerNamespaces>>,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self { waiting: Waiting::new() }
    }

    /// Receives the request of a client, if the client may send one.
    pub(crate) async fn request(&self, client: &mut Candidate) -> Result<(Request, Vec<OwnedFd>), Refusal> {
        match client.peer {
            Peer::SameNamespaces | Peer::DiffersIn(_) => greet(&mut client.connection).await?,
            Peer::OtherNamespaces(place) => self.authenticate(&client.connection, place).await?,
        }
        Ok(client.connection.receive().await?)
    }

    /// Waits for the proof of a client in other namespaces.
    async fn authenticate(
        &self,
        client: &Connection,
        OtherNamespaces { namespace, origin }: OtherNamespaces,
    ) -> Result<(), Refusal> {
        let mut place = self.waiting.enter(origin);
        let refused = |reason| Refusal::Key(DaemonError::Key { namespace, reason });
        tokio::select! {
            done = tokio::time::timeout(PROOF_TIMEOUT, exchange(client, refused)) => done.unwrap_or(Err(refused(KeyRefusal::Late))),
            () = place.displaced() => Err(refused(KeyRefusal::Many)),
        }
    }
}

/// Receives the first message of a client in the daemon's user and PID namespaces. A client that may not inspect the daemon does
/// not know that it is in these namespaces, and needs a proof of the daemon.
async fn greet(client: &mut Connection) -> Result<(), Refusal> {
    let hello = client.receive::<Hello>().await?.0;
    check_version(&hello)?;
    if hello.nonce != Nonce::NONE {
        challenge(client, hello.nonce).await?;
        // The namespaces of the client suffice as a proof.
        client.receive::<Answer>().await?;
    }
    Ok(())
}

/// Exchanges proofs with a client in other namespaces.
async fn exchange(client: &Connection, refused: impl Fn(KeyRefusal) -> Refusal) -> Result<(), Refusal> {
    let hello: Hello = fixed(client, &Hello { version: VERSION, nonce: Nonce::NONE }).await?;
    check_version(&hello)?;
    if hello.nonce == Nonce::NONE {
        return Err(refused(KeyRefusal::None(key::path())));
    }
    let expected = challenge(client, hello.nonce).await?;
    let Answer(tag) = fixed(client, &Answer(Tag::NONE)).await?;
    if tag.is(&expected) { Ok(()) } else { Err(refused(KeyRefusal::Wrong(key::path()))) }
}

fn check_version(hello: &Hello) -> Result<(), Refusal> {
    if hello.version == VERSION { Ok(()) } else { Err(Refusal::Version(hello.version)) }
}

/// Sends the daemon's proof, and returns the proof that the client must send.
async fn challenge(client: &Connection, nonce: Nonce) -> Result<Tag, Refusal> {
    let without_key = |reason| Refusal::Key(DaemonError::NoKey(reason));
    let own = Nonce::random().map_err(|error| Refusal::Gone(error.into()))?;
    let nonces = Nonces { client: nonce, daemon: own };
    let tags = tokio::task::spawn_blocking(move || key::tags(&nonces)).await;
    let Tags { daemon, client: expected } = tags
        .map_err(|error| without_key(error.to_string()))?
        .map_err(|error| without_key(format!("{}: {}", error.path.display(), error.cause)))?;
    client.send(&Reply::Challenge { nonce: own, tag: daemon }, &[])?;
    Ok(expected)
}

/// Receives a message whose length is always that of `like`. File descriptors that are attached to it are closed.
async fn fixed<M: Serialize + DeserializeOwned>(client: &Connection, like: &M) -> Result<M, Refusal> {
    let mut message = encode(like, 0).map_err(ChannelError::Encode)?;
    client.receive_bytes(&mut message).await?;
    match decode(&message, MAX_FRAME).map_err(ChannelError::from)? {
        Some((message, _, _)) => Ok(message),
        None => Err(Refusal::Unreadable("a message before the request does not have the expected length".to_owned())),
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
