//! Decides which clients are served: by the process that connected, and by the key of a client in other namespaces.
//!
//! Sandboxes cannot reach the socket. These checks are a second barrier in case one can, because its payload may have the user's
//! uid. Until a client in other namespaces has presented the key, the daemon reads a fixed number of bytes from it, takes no file
//! descriptors, and decodes nothing.

use crate::{
    connection::Connection,
    error::{DaemonError, KeyRefusal},
    key::{self, Key},
    protocol::{Hello, MAX_FRAME, Request, VERSION},
};
use agentd_kernel::peer::{self, Peer};
use agentd_supervisor::{
    channel::ChannelError,
    protocol::{decode, encode},
};
use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// The time that a client in other namespaces has to present its key.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest number of clients in other namespaces that have connected and not presented a key yet.
const WAITING: usize = 64;

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
    /// The client sent bytes that are no message of this version of the protocol.
    Unreadable(String),
    /// The client must present the key of the daemon and did not.
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

/// Verifies the process that connected.
pub(crate) fn verify(socket: UnixStream) -> io::Result<Candidate> {
    let peer = peer::verify(socket.as_fd()).map_err(|refused| io::Error::new(io::ErrorKind::PermissionDenied, refused))?;
    Ok(Candidate { connection: Connection::new(socket)?, peer })
}

/// Receives requests from the clients that may send them.
pub(crate) struct Admission {
    /// One permit for each client whose key the daemon waits for.
    waiting: Semaphore,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self { waiting: Semaphore::new(WAITING) }
    }

    /// Receives the request of a client, if the client may send one.
    pub(crate) async fn request(&self, client: &mut Candidate) -> Result<(Request, Vec<OwnedFd>), Refusal> {
        let hello = match client.peer {
            Peer::Here => client.connection.receive::<Hello>().await?.0,
            Peer::Elsewhere(namespace) => {
                let refused = |reason: KeyRefusal| Refusal::Key(DaemonError::Key { namespace, reason });
                let message = self.first_message(&client.connection).await?.map_err(refused)?;
                check(Key::at_end_of(&message)).await.map_err(refused)?;
                decoded(&message)?
            }
        };
        if hello.version != VERSION {
            return Err(Refusal::Version(hello.version));
        }
        Ok(client.connection.receive().await?)
    }

    /// Reads as many bytes as [`Hello`] has.
    async fn first_message(&self, client: &Connection) -> Result<Result<Vec<u8>, KeyRefusal>, ChannelError> {
        let Ok(_waiting) = self.waiting.try_acquire() else { return Ok(Err(KeyRefusal::Many)) };
        let hello = Hello { version: VERSION, key: Key::NONE };
        let mut message = encode(&hello, 0).map_err(ChannelError::Encode)?;
        match tokio::time::timeout(PATIENCE, client.receive_bytes(&mut message)).await {
            Ok(received) => received.map(|()| Ok(message)),
            Err(_) => Ok(Err(KeyRefusal::Late)),
        }
    }
}

/// Compares the key that a client presented with that of the daemon.
async fn check(presented: Key) -> Result<(), KeyRefusal> {
    let own = tokio::task::spawn_blocking(key::of_daemon).await.map_err(|error| KeyRefusal::NoFile(error.to_string()))?;
    let path = own.path;
    match own.key {
        Ok(key) if key.is(&presented) => Ok(()),
        Ok(_) if presented.is_none() => Err(KeyRefusal::None(path)),
        Ok(_) => Err(KeyRefusal::Wrong(path)),
        Err(error) => Err(KeyRefusal::NoFile(format!("{}: {error}", path.display()))),
    }
}

fn decoded(message: &[u8]) -> Result<Hello, Refusal> {
    match decode(message, MAX_FRAME).map_err(ChannelError::from)? {
        Some((hello, _, _)) => Ok(hello),
        None => Err(Refusal::Unreadable("the first message has another length".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Returns a client that must present a key, and the other end of its connection.
    fn elsewhere() -> (Candidate, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Candidate { connection: Connection::new(ours).unwrap(), peer: Peer::Elsewhere("user") }, theirs)
    }

    fn reason(refused: Result<(Request, Vec<OwnedFd>), Refusal>) -> KeyRefusal {
        match refused {
            Err(Refusal::Key(DaemonError::Key { namespace: "user", reason })) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn hello() -> Vec<u8> {
        encode(&Hello { version: VERSION, key: Key::NONE }, 0).unwrap()
    }

    #[test]
    fn first_message_has_one_length_and_ends_with_the_key() {
        let key = Key::at_end_of(&[7; 100]);
        let message = encode(&Hello { version: VERSION, key: key.clone() }, 0).unwrap();
        assert_eq!(message.len(), hello().len());
        assert!(Key::at_end_of(&message).is(&key) && Key::at_end_of(&hello()).is_none());
    }

    // The clock is paused: it advances only when nothing else can happen.
    #[tokio::test(start_paused = true)]
    async fn client_elsewhere_that_sends_too_little_is_refused() {
        let all = Admission::new();
        for sent in [0, 1, hello().len() - 1] {
            let (mut client, mut theirs) = elsewhere();
            theirs.write_all(&hello()[..sent]).unwrap();
            assert!(matches!(reason(all.request(&mut client).await), KeyRefusal::Late), "{sent} bytes");
        }
        let (mut client, theirs) = elsewhere();
        drop(theirs);
        assert!(matches!(all.request(&mut client).await, Err(Refusal::Gone(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_elsewhere_that_send_nothing_are_limited_in_number() {
        let all = Admission::new();
        let mut silent: Vec<_> = (0..WAITING).map(|_| elsewhere()).collect();
        let mut waits: Vec<_> = silent.iter_mut().map(|(client, _)| Box::pin(all.request(client))).collect();
        for wait in &mut waits {
            assert!(std::future::poll_fn(|context| std::task::Poll::Ready(wait.as_mut().poll(context).is_pending())).await);
        }
        let (mut client, _theirs) = elsewhere();
        assert!(matches!(reason(all.request(&mut client).await), KeyRefusal::Many));
        drop(waits);
        assert!(matches!(reason(all.request(&mut client).await), KeyRefusal::Late));
    }

    #[tokio::test]
    async fn descriptors_of_a_client_elsewhere_are_closed() {
        let (client, theirs) = elsewhere();
        let (mut kept, passed) = UnixStream::pair().unwrap();
        agentd_supervisor::channel::send_some(theirs.as_fd(), &hello(), &[passed.as_fd()]).unwrap();
        drop(passed);
        let mut message = hello();
        client.connection.receive_bytes(&mut message).await.unwrap();
        // The end of the stream: no process has the other end.
        assert_eq!(kept.read(&mut [0]).unwrap(), 0);
    }
}
