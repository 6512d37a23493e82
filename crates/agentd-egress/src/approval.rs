//! The approvals of destinations: a connection to a host that needs an approval waits here until a user has decided.
//!
//! A sandbox has at most one request for each destination at a time, and one decision for each destination. The table is bounded:
//! a hostile sandbox can neither show a user more than `APPROVAL_REQUESTS` requests nor hold more than
//! `WAITING_FOR_APPROVAL` connections here. Without a program that takes the requests, every connection is refused.

use crate::limits::{APPROVAL_REQUESTS, PENDING_APPROVALS, WAITING_FOR_APPROVAL};
use agentd_core::{HostApprovalRequest, HostDecision};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// The reason why a connection was refused that needs an approval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApprovalRefusal {
    /// No program asks a user.
    #[error(
        "the network grant needs an approval, and this program asks nobody — use `agentd run`, or grant the host without `/approve`"
    )]
    NotServed,
    /// A user denied the destination.
    #[error("{by} denied the connection — start the command again if you want to decide again")]
    Denied {
        /// The user.
        by: String,
    },
    /// Nobody decided in time.
    #[error("nobody approved the connection in time — connect again, and run `agentd approve` while the connection waits")]
    Expired,
    /// Nobody could be asked.
    #[error("no approval could be requested: {reason}")]
    Failed {
        /// The cause.
        reason: String,
    },
    /// Too many destinations wait.
    #[error("{PENDING_APPROVALS} destinations of the sandbox already wait for an approval — decide about these first")]
    TooManyPending,
    /// Too many connections wait.
    #[error("{WAITING_FOR_APPROVAL} connections of the sandbox already wait for an approval — decide about these first")]
    TooManyWaiting,
    /// The sandbox has requested too many approvals.
    #[error(
        "the sandbox has requested {APPROVAL_REQUESTS} approvals, which is the maximum — grant the host without `/approve`, or \
         start the command again"
    )]
    TooManyRequests,
    /// The program closed the connection, or its sending side, before a decision.
    #[error("the program closed the connection before a decision — connect again, and keep the connection open")]
    Left,
    /// The sandbox ended, or the grant was revoked, before a decision.
    #[error("the sandbox ended, or the network grant was revoked, before a decision — start the command again")]
    Withdrawn,
}

/// The approvals of the destinations of one sandbox.
#[derive(Debug, Clone)]
pub struct HostApprovals(Arc<SharedApprovals>);

#[derive(Debug)]
struct SharedApprovals {
    table: Mutex<ApprovalTable>,
    /// Changes whenever a connection or the reader of the requests may have to look at the table.
    changed: watch::Sender<()>,
}

/// The decisions and the requests so far.
#[derive(Debug, Default)]
struct ApprovalTable {
    destinations: HashMap<String, LatestRequest>,
    /// Requests that the reader has not taken.
    untaken: VecDeque<HostApprovalRequest>,
    requests: u64,
    waiting: usize,
    served: bool,
    closed: bool,
}

/// The newest request for a destination.
#[derive(Debug)]
struct LatestRequest {
    id: u64,
    deadline: Instant,
    decision: Option<HostDecision>,
}

/// The state of a request.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Approved(String),
    Pending(Instant),
}

impl Default for HostApprovals {
    fn default() -> Self {
        Self(Arc::new(SharedApprovals { table: Mutex::default(), changed: watch::Sender::new(()) }))
    }
}

impl HostApprovals {
    /// Declares that this program takes the requests. Before the first call, connections are refused at once.
    pub fn serve(&self) {
        self.lock().served = true;
    }

    /// Waits for a request that was not taken. Returns `None` after [`HostApprovals::close`].
    pub async fn next(&self) -> Option<HostApprovalRequest> {
        let mut changes = self.0.changed.subscribe();
        loop {
            {
                let mut table = self.lock();
                if let Some(mut request) = table.untaken.pop_front() {
                    let deadline = table.destinations.get(&request.to).map(|entry| entry.deadline);
                    request.wait = deadline.map_or(request.wait, |deadline| deadline.saturating_duration_since(Instant::now()));
                    return Some(request);
                }
                if table.closed {
                    return None;
                }
            }
            changes.changed().await.ok()?;
        }
    }

    /// Decides about the request with this number. The first decision is final.
    pub fn decide(&self, id: u64, decision: HostDecision) {
        self.lock().decide(id, decision);
        self.0.changed.send_replace(());
    }

    /// Waits until no connection needs a decision about the request with this number any more: its network grant was revoked, a
    /// later request has replaced it, or the sandbox has ended.
    pub async fn withdrawn(&self, id: u64) {
        let mut changes = self.0.changed.subscribe();
        while self.lock().destinations.values().any(|entry| entry.id == id) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the number of connections that wait for a decision.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Forgets the decisions about all destinations for which `keep` returns false. Connections that wait there are refused.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut table = self.lock();
        table.destinations.retain(|to, _| keep(to));
        table.untaken.retain(|request| keep(&request.to));
        drop(table);
        self.0.changed.send_replace(());
    }

    /// Refuses the connections that wait, and all later ones.
    pub fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.destinations.clear();
        table.untaken.clear();
        drop(table);
        self.0.changed.send_replace(());
    }

    /// Waits until a user has approved the destination `to`, which a grant with the text `rule` covers. Returns the user.
    ///
    /// # Errors
    /// The reason for which the connection must be refused.
    pub(crate) async fn wait(&self, to: &str, rule: &str, limit: Duration) -> Result<String, ApprovalRefusal> {
        let mut changes = self.0.changed.subscribe();
        let id = self.lock().request(to, rule, Instant::now(), limit)?;
        self.0.changed.send_replace(());
        let mut place = None;
        loop {
            // The lock must not be held in the statements below.
            let state = self.lock().state(to, id, Instant::now())?;
            let deadline = match state {
                State::Approved(by) => return Ok(by),
                State::Pending(deadline) => deadline,
            };
            if place.is_none() {
                place = Some(WaitingPlace::take(self)?);
            }
            // Both the end of the time and a change mean that the table is read again.
            let _ = timeout_at(deadline, changes.changed()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ApprovalTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection that waits.
struct WaitingPlace<'a>(&'a HostApprovals);

impl<'a> WaitingPlace<'a> {
    fn take(approvals: &'a HostApprovals) -> Result<Self, ApprovalRefusal> {
        let mut table = approvals.lock();
        if table.waiting >= WAITING_FOR_APPROVAL {
            return Err(ApprovalRefusal::TooManyWaiting);
        }
        table.waiting += 1;
        drop(table);
        Ok(Self(approvals))
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl ApprovalTable {
    /// Returns the number of the request for a destination, and makes a new request if there is none that is pending or decided.
    ///
    /// # Errors
    /// The bound that a new request would exceed.
    fn request(&mut self, to: &str, rule: &str, now: Instant, limit: Duration) -> Result<u64, ApprovalRefusal> {
        if self.closed {
            return Err(ApprovalRefusal::Withdrawn);
        }
        if !self.served {
            return Err(ApprovalRefusal::NotServed);
        }
        let is_over = |entry: &LatestRequest| match entry.decision {
            None => entry.deadline <= now,
            Some(HostDecision::Approved { .. } | HostDecision::Denied { .. }) => false,
            Some(_) => true,
        };
        if let Some(entry) = self.destinations.get(to).filter(|entry| !is_over(entry)) {
            return Ok(entry.id);
        }
        let is_pending = |entry: &&LatestRequest| entry.decision.is_none() && entry.deadline > now;
        if self.destinations.values().filter(is_pending).count() >= PENDING_APPROVALS {
            return Err(ApprovalRefusal::TooManyPending);
        }
        if self.requests >= APPROVAL_REQUESTS {
            return Err(ApprovalRefusal::TooManyRequests);
        }
        let id = self.requests;
        self.requests += 1;
        // A limit that no clock reaches is refused at once.
        let deadline = now.checked_add(limit).unwrap_or(now);
        self.destinations.insert(to.to_owned(), LatestRequest { id, deadline, decision: None });
        self.untaken.push_back(HostApprovalRequest { id, to: to.to_owned(), rule: rule.to_owned(), wait: limit });
        Ok(id)
    }

    /// Returns the state of the request with this number.
    ///
    /// # Errors
    /// The reason for which its connections must be refused.
    fn state(&self, to: &str, id: u64, now: Instant) -> Result<State, ApprovalRefusal> {
        let entry = self.destinations.get(to).ok_or(ApprovalRefusal::Withdrawn)?;
        match &entry.decision {
            // The request was replaced after its time.
            _ if entry.id != id => Err(ApprovalRefusal::Expired),
            Some(HostDecision::Approved { by }) => Ok(State::Approved(by.clone())),
            Some(HostDecision::Denied { by }) => Err(ApprovalRefusal::Denied { by: by.clone() }),
            Some(HostDecision::Failed { reason }) => Err(ApprovalRefusal::Failed { reason: reason.clone() }),
            Some(_) => Err(ApprovalRefusal::Expired),
            None if entry.deadline <= now => Err(ApprovalRefusal::Expired),
            None => Ok(State::Pending(entry.deadline)),
        }
    }

    fn decide(&mut self, id: u64, decision: HostDecision) {
        let undecided = self.destinations.values_mut().find(|entry| entry.id == id && entry.decision.is_none());
        if let Some(entry) = undecided {
            entry.decision = Some(decision);
        }
    }
}

#[cfg(test)]
#[path = "approval_tests.rs"]
mod tests;
