//! The audit log: an append-only transparency log in the layout of <https://c2sp.org/tlog-tiles>.

pub(crate) mod error;
mod prove;
mod read;
mod series;
mod verify;
pub(crate) mod writer;

pub use error::LogError;
pub use prove::{ConsistencyProof, InclusionProof, InvalidProof, prove_consistency, prove_inclusion};
pub use read::LogReader;
pub use verify::{Alteration, Verified, VerifyError, verify};

use crate::{keys::Keys, leaf::Leaf};
use agentd_log::LogFailure as _;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use writer::Writer;

/// The maximum number of leaves of one commit.
const MAX_LEAVES: usize = 1024;
/// The number of bytes after which a commit takes no further leaf.
const MAX_BYTES: usize = 1 << 20;

/// The maximum number of leaves that wait for the writer. Callers with further leaves wait until there is room.
const QUEUE: usize = 4096;

/// A leaf that waits to be recorded.
struct Waiting {
    leaf: Vec<u8>,
    reply: oneshot::Sender<Result<u64, LogError>>,
}

/// The audit log, opened for writing. A thread commits the leaves that have arrived since its last commit, all at once.
pub struct AuditLog {
    keys: Keys,
    /// `None` only while the log is being dropped.
    queue: Option<mpsc::Sender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// [`LogError::Unwritten`] if the thread cannot be started.
    pub(crate) fn start(writer: Writer, keys: Keys) -> Result<Self, LogError> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("audit log".to_owned()).spawn(move || write(writer, waiting));
        let thread = thread.map_err(|error| LogError::Unwritten(format!("start a thread: {error}")))?;
        Ok(Self { keys, queue: Some(queue), thread: Some(thread) })
    }

    /// Returns the keys that sign the log.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Records a leaf. Returns the index of the leaf, when the leaf is durable. If the caller stops waiting, the leaf may still
    /// be recorded.
    ///
    /// # Errors
    /// [`LogError::Leaf`] if the leaf is too long, and [`LogError::Unwritten`] if this leaf or an earlier one could not be
    /// written.
    pub async fn append(&self, leaf: &Leaf) -> Result<u64, LogError> {
        let (reply, recorded) = oneshot::channel();
        let waiting = Waiting { leaf: leaf.to_bytes()?, reply };
        let ended = || LogError::Unwritten("the writer has ended".to_owned());
        self.queue.as_ref().ok_or_else(ended)?.send(waiting).await.map_err(|_| ended())?;
        recorded.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Waits until all leaves are recorded, and releases the lock of the log.
impl Drop for AuditLog {
    fn drop(&mut self) {
        drop(self.queue.take());
        // After a panic of the thread, which has printed the cause, every caller has received an error.
        if let Some(thread) = self.thread.take() {
            thread.join().or_unreceived("end of the audit log's thread");
        }
    }
}

fn write(mut writer: Writer, mut queue: mpsc::Receiver<Waiting>) {
    while let Some(first) = queue.blocking_recv() {
        let (mut bytes, mut batch) = (first.leaf.len(), vec![first]);
        while batch.len() < MAX_LEAVES && bytes < MAX_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.leaf.len();
            batch.push(next);
        }
        let index = writer.size();
        let committed = writer.commit(batch.iter().map(|waiting| waiting.leaf.as_slice()));
        let cause = committed.err().map(|error| error.to_string());
        for (index, waiting) in (index..).zip(batch) {
            let result = cause.as_ref().map_or(Ok(index), |cause| Err(LogError::Unwritten(cause.clone())));
            waiting.reply.send(result).or_unreceived("index of a leaf");
        }
        if let Some(cause) = cause {
            return refuse(&cause, queue);
        }
    }
}

/// Refuses all further leaves. After a failed flush, the kernel may have dropped what was written (`man 2 fsync`).
fn refuse(cause: &str, mut queue: mpsc::Receiver<Waiting>) {
    while let Some(waiting) = queue.blocking_recv() {
        waiting.reply.send(Err(LogError::Unwritten(cause.to_owned()))).or_unreceived("error of a leaf");
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;
