//! The queue of records. It is bounded, and records that do not fit are counted. Refused attempts take at most half of the queue,
//! so that many refused attempts do not displace the record of a granted flow.
//!
//! A later record of a flow replaces an earlier one in the queue.

use super::FlowRecord;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The queue of records between a gateway and its reader.
#[derive(Debug, Clone)]
pub struct FlowLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    added: Condvar,
    max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<FlowRecord>,
    refused: usize,
    dropped: u64,
    closed: bool,
}

impl FlowLog {
    /// Creates a queue for at most `max` records.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), added: Condvar::new(), max: max.max(2) }))
    }

    /// Adds a record, or counts it as dropped. Records of open connections take at most a quarter of the queue. Such a record is
    /// not counted, because another one follows.
    pub(crate) fn add(&self, record: FlowRecord) {
        let mut queue = self.lock();
        if record.id.is_some() {
            let earlier = queue.records.iter().rposition(|queued| queued.is_open() && queued.id == record.id);
            if let Some(at) = earlier {
                queue.records.remove(at);
            }
        }
        if record.is_open() && queue.records.len() >= self.0.max / 4 {
            return;
        }
        let refused = record.is_refused();
        if queue.records.len() >= self.0.max || (refused && queue.refused >= self.0.max / 2) {
            queue.dropped += 1;
            return;
        }
        queue.refused += usize::from(refused);
        queue.records.push_back(record);
        drop(queue);
        self.0.added.notify_one();
    }

    /// Counts an attempt that gets no record as dropped.
    pub(crate) fn add_dropped(&self) {
        self.lock().dropped += 1;
    }

    /// Marks the end: no record follows.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.0.added.notify_all();
    }

    /// Waits for a record up to `timeout`. Returns `None` at the time-out, or if the gateway has ended and no record is left.
    pub fn next(&self, timeout: Duration) -> Option<FlowRecord> {
        let deadline = Instant::now().checked_add(timeout);
        let mut queue = self.lock();
        loop {
            if let Some(record) = queue.records.pop_front() {
                queue.refused -= usize::from(record.is_refused());
                return Some(record);
            }
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if queue.closed || left.is_zero() {
                return None;
            }
            queue = self.0.added.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the number of records that did not fit since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
