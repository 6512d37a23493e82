//! The thread that owns the database connection. It executes all requests that have arrived since its last commit in one
//! transaction, and answers each request after the commit (group commit).

use crate::{
    connection::{Opened, commits},
    counter::CommitCounter,
    error::StateError,
    owner::Owner,
};
use agentd_log::LogFailure as _;
use rusqlite::Connection;
use std::collections::VecDeque;
use tokio::sync::{mpsc, oneshot};

/// The maximum number of requests in one transaction.
const MAX_BATCH: usize = 256;

/// Sends the result to the caller, or the error of the commit.
type SendResult = Box<dyn FnOnce(Result<(), &StateError>) + Send>;

/// Executes a request. Also returns the error that ends the transaction, if any.
type Execute = Box<dyn FnOnce(Result<&Connection, &StateError>) -> (SendResult, Option<StateError>) + Send>;

/// A request that waits for the thread.
pub(crate) struct Job {
    writes: bool,
    execute: Execute,
}

/// Returns the request to execute `work`, and the receiver of the result. If `work` fails, its own changes are undone.
pub(crate) fn job<T: Send + 'static>(
    writes: bool,
    work: impl FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StateError>>) {
    let (sender, receiver) = oneshot::channel();
    let execute = move |connection: Result<&Connection, &StateError>| -> (SendResult, Option<StateError>) {
        let result = match connection {
            Ok(connection) if writes => in_savepoint(connection, work),
            Ok(connection) => work(connection),
            Err(error) => Err(error.repeated()),
        };
        let ended = connection.is_ok_and(Connection::is_autocommit);
        let fatal = result.as_ref().err().filter(|error| ended || matches!(error, StateError::Unwritten(_)));
        let fatal = fatal.map(StateError::repeated);
        let answer: SendResult = Box::new(move |committed| {
            let result = result.and_then(|value| committed.map(|()| value).map_err(StateError::repeated));
            sender.send(result).or_unreceived("result of a transaction");
        });
        (answer, fatal)
    };
    (Job { writes, execute: Box::new(execute) }, receiver)
}

fn in_savepoint<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T, StateError>) -> Result<T, StateError> {
    execute(connection, "SAVEPOINT request")?;
    let result = work(connection);
    // SQLite undoes the whole transaction after some errors (<https://sqlite.org/lang_transaction.html>, section 3).
    if connection.is_autocommit() {
        return result.and_then(|_| Err(StateError::Unwritten("SQLite has ended the transaction".to_owned())));
    }
    let undone = if result.is_err() { execute(connection, "ROLLBACK TO request") } else { Ok(()) };
    if let Err(error) = undone.and_then(|()| execute(connection, "RELEASE request")) {
        // What the request has changed must not be committed.
        execute(connection, "ROLLBACK").or_warn("roll back", "transaction of the state");
        return Err(error);
    }
    result
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StateError> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// The state of the thread.
pub(crate) struct StateThread {
    connection: Connection,
    counter: CommitCounter,
    owner: Owner,
    /// The error after which no request is accepted. After a failed flush, the kernel may have dropped what was written
    /// (`man 2 fsync`).
    failed: Option<StateError>,
}

impl StateThread {
    pub fn new(opened: Opened) -> Self {
        let Opened { connection, counter, owner } = opened;
        Self { connection, counter, owner, failed: None }
    }

    /// Executes requests until the queue is closed.
    pub fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = VecDeque::from([first]);
            while batch.len() < MAX_BATCH
                && let Ok(next) = queue.try_recv()
            {
                batch.push_back(next);
            }
            while !batch.is_empty() {
                self.transaction(&mut batch);
            }
        }
        // Without a connection that works, the next process recovers the intents.
        if self.failed.is_none() {
            self.owner.release(&self.connection);
        }
    }

    /// Executes requests in one transaction, all of them unless SQLite ends the transaction earlier.
    fn transaction(&mut self, batch: &mut VecDeque<Job>) {
        let begin = if batch.iter().any(|job| job.writes) { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let begun = match self.failed.as_ref() {
            Some(error) => Err(error.repeated()),
            None => execute(&self.connection, begin),
        };
        if let Err(error) = begun {
            for job in batch.drain(..) {
                let (answer, _) = (job.execute)(Err(&error));
                answer(Err(&error));
            }
            return self.note(error);
        }
        let before = self.connection.total_changes();
        let (mut answers, mut fatal) = (Vec::with_capacity(batch.len()), None);
        while fatal.is_none()
            && let Some(job) = batch.pop_front()
        {
            let (answer, error) = (job.execute)(Ok(&self.connection));
            answers.push(answer);
            fatal = error;
        }
        let result = fatal.map_or(Ok(()), Err).and_then(|()| self.commit(before));
        if result.is_err() && !self.connection.is_autocommit() {
            execute(&self.connection, "ROLLBACK").or_warn("roll back", "transaction of the state");
        }
        answers.into_iter().for_each(|answer| answer(result.as_ref().copied()));
        if let Err(error) = result {
            self.note(error);
        }
    }

    fn commit(&self, before: u64) -> Result<(), StateError> {
        let number = self.count(before)?;
        execute(&self.connection, "COMMIT")?;
        if let Some(number) = number {
            // If the file keeps a smaller number, it can show fewer losses. It never reports a loss that did not happen.
            self.counter.write(number).or_warn("write the number of transactions", number);
        }
        Ok(())
    }

    /// Counts the transaction if it has changed anything.
    fn count(&self, before: u64) -> Result<Option<u64>, StateError> {
        if self.connection.total_changes() == before {
            return Ok(None);
        }
        let number = commits(&self.connection)?.saturating_add(1);
        let mut update = self.connection.prepare_cached("UPDATE store SET commits = ?1 WHERE id = 1")?;
        update.execute([i64::try_from(number).unwrap_or(i64::MAX)])?;
        Ok(Some(number))
    }

    fn note(&mut self, error: StateError) {
        if matches!(error, StateError::Unwritten(_)) {
            self.failed = Some(error);
        }
    }
}
