//! The state machine of one exec. It handles the deadline, grace period, limits and end for every transport.

use super::transport::{End, Event, LimitWatch, Timer, Transport};
use agentd_core::{Captured, EndReason, IsolationError, Limits, Outcome, Usage};
use std::{future::pending, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// The phase of an exec. Phases occur in this order; any of them may be skipped.
enum Phase {
    /// The command runs, and no limit was exceeded.
    Running {
        /// The wall-clock deadline.
        deadline: Option<Timer>,
    },
    /// The deadline passed, and the command was asked to end by itself.
    Grace {
        /// The end of the grace period.
        kill_at: Timer,
    },
    /// The peer was ordered to kill the process tree.
    Ending {
        /// The reason for ending the exec.
        reason: EndReason,
        /// Expires when the peer has taken too long.
        max_wait: Timer,
    },
    /// The sandbox was killed, because the peer did not end the command in time.
    Killed {
        /// The reason for ending the exec.
        reason: EndReason,
    },
    /// The command has ended. Its exec still has to be completed, unless the sandbox is lost.
    Over {
        /// The reason why this side ended the exec, if it did.
        reason: Option<EndReason>,
        /// The time at which the completion is stopped: the deadline plus the grace period. `None` if the deadline ended the
        /// command.
        give_up_at: Option<Timer>,
        /// True if the sandbox is lost.
        lost: bool,
    },
}

impl Phase {
    /// Returns the reason why this side ended the exec. The first reason is kept.
    fn reason(&self) -> Option<EndReason> {
        match self {
            Self::Running { .. } => None,
            Self::Grace { .. } => Some(EndReason::WallDeadline),
            Self::Ending { reason, .. } | Self::Killed { reason } => Some(*reason),
            Self::Over { reason, .. } => *reason,
        }
    }

    /// Returns true if the command can still be ordered to end.
    fn can_end(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Grace { .. })
    }

    /// Waits for the timer of this phase.
    async fn timer(&mut self) {
        match self {
            Self::Running { deadline: Some(timer) }
            | Self::Grace { kill_at: timer }
            | Self::Ending { max_wait: timer, .. }
            | Self::Over { give_up_at: Some(timer), .. } => timer.await,
            Self::Running { deadline: None } | Self::Killed { .. } | Self::Over { give_up_at: None, .. } => pending().await,
        }
    }
}

/// The result of waiting for an exec.
enum WaitResult {
    Event(Event),
    /// A limit was exceeded, or the caller requested the end.
    End(EndReason),
    /// The timer of the phase expired.
    Timer,
}

/// A running exec. Dropping it before its end kills the command.
pub struct Exec<T: Transport> {
    pub(super) transport: T,
    phase: Phase,
    started: Instant,
    wall: Option<Duration>,
    grace: Option<Duration>,
    output_limit: u64,
    /// Output so far, in bytes.
    output: u64,
    limits: LimitWatch,
    /// Requests of a handle to end the exec. Dropping the handle counts as a request.
    requests: Option<mpsc::UnboundedReceiver<EndReason>>,
}

/// Creates a timer that expires at `start + time`; `None` if that is beyond the range of the clock.
fn timer(start: Instant, time: Duration) -> Option<Timer> {
    let at = start.checked_add(time)?;
    Some(Box::pin(tokio::time::sleep_until(at)))
}

impl<T: Transport> Exec<T> {
    /// Creates an exec that `transport` is about to start, and starts its clock. `limits` are the effective limits.
    pub fn new(transport: T, limits: &Limits) -> Self {
        let started = Instant::now();
        Self {
            phase: Phase::Running { deadline: limits.wall.and_then(|wall| timer(started, wall)) },
            started,
            wall: limits.wall,
            grace: limits.grace.filter(|grace| !grace.is_zero()),
            output_limit: limits.output.map_or(u64::MAX, |limit| limit.0),
            output: 0,
            limits: transport.limits(),
            requests: None,
            transport,
        }
    }

    /// Lets `requests` end the exec.
    #[must_use]
    pub(super) fn ended_by(mut self, requests: mpsc::UnboundedReceiver<EndReason>) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Tells the peer to end the command, unless the exec is already being ended.
    fn end(&mut self, reason: EndReason) {
        if !self.phase.can_end() {
            return;
        }
        let reason = self.phase.reason().unwrap_or(reason);
        self.phase = Phase::Ending { reason, max_wait: self.transport.max_wait() };
        self.transport.end(reason);
    }

    /// Counts output of the command, and ends the command when the output limit is exceeded. Output that arrives after the end
    /// also counts.
    pub(super) fn count_output(&mut self, bytes: usize) {
        self.output = self.output.saturating_add(bytes as u64);
        if self.output <= self.output_limit {
            return;
        }
        match &mut self.phase {
            Phase::Over { reason, .. } => *reason = reason.or(Some(EndReason::OutputLimit)),
            _ => self.end(EndReason::OutputLimit),
        }
    }

    /// Enters the next phase after the timer of the current one has expired.
    fn timer_expired(&mut self) {
        match &self.phase {
            Phase::Running { .. } => match self.grace.and_then(|grace| timer(Instant::now(), grace)) {
                Some(kill_at) => {
                    self.phase = Phase::Grace { kill_at };
                    self.transport.terminate();
                }
                None => self.end(EndReason::WallDeadline),
            },
            Phase::Grace { .. } => self.end(EndReason::WallDeadline),
            Phase::Ending { reason, .. } => {
                self.phase = Phase::Killed { reason: *reason };
                self.transport.kill();
            }
            Phase::Killed { .. } | Phase::Over { .. } => {}
        }
    }

    /// Handles an event of the peer, which is the end of the exec or an error.
    pub(super) fn handle(&mut self, event: Event) -> Result<End, IsolationError> {
        let reason = self.phase.reason();
        match event {
            Event::Ended(end) => {
                if let (false, Some(requests)) = (self.phase.can_end(), &mut self.requests) {
                    // These requests were for the end of a command that was already being ended, so they do not stop the
                    // completion.
                    while requests.try_recv().is_ok() {}
                }
                self.phase = Phase::Over { reason, give_up_at: self.give_up_at(), lost: false };
                Ok(end)
            }
            Event::NotStarted(error) => {
                self.phase = Phase::Over { reason, give_up_at: None, lost: false };
                Err(error)
            }
            Event::Misplaced(error) => Err(error),
            Event::Lost { error, reason: shown, usage } => {
                let reason = reason.or(shown);
                self.phase = Phase::Over { reason, give_up_at: None, lost: true };
                // The command was lost with its sandbox. If this side had a reason to end the command, the loss is that end, and
                // not an error.
                reason.map(|reason| End { reason, exit_code: None, signal: Some(libc::SIGKILL), usage }).ok_or(error)
            }
        }
    }

    /// Waits for the next event, request or timer, and handles it. Returns the end of the exec, if the exec has ended. Cancel
    /// safe.
    pub(super) async fn step(&mut self) -> Result<Option<End>, IsolationError> {
        let Self { transport, phase, limits, requests, .. } = self;
        let can_end = phase.can_end();
        let request = async {
            match requests {
                Some(requests) => requests.recv().await.unwrap_or(EndReason::Cancelled),
                None => pending().await,
            }
        };
        let happened = tokio::select! {
            biased;
            event = transport.event() => WaitResult::Event(event),
            reason = request, if can_end => WaitResult::End(reason),
            () = phase.timer() => WaitResult::Timer,
            reason = limits, if can_end => WaitResult::End(reason),
        };
        match happened {
            WaitResult::Event(event) => return self.handle(event).map(Some),
            WaitResult::End(reason) => self.end(reason),
            WaitResult::Timer => self.timer_expired(),
        }
        Ok(None)
    }

    /// Creates the timer that bounds the completion of an exec whose command has just ended.
    fn give_up_at(&self) -> Option<Timer> {
        let limit = self.wall.filter(|_| matches!(self.phase, Phase::Running { .. }))?;
        timer(self.started, limit.saturating_add(self.grace.unwrap_or_default()))
    }

    /// Waits for the end of the exec and returns its outcome.
    pub(super) async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        loop {
            if let Some(end) = self.step().await? {
                let outcome = self.outcome(&end);
                return self.conclude(outcome).await;
            }
        }
    }

    /// Completes an exec whose command has ended, and returns its outcome. A request to end the exec, or its deadline with the
    /// grace period, stops the completion. The outcome then has that reason, unless the command was ended for an earlier one.
    pub(super) async fn conclude(&mut self, outcome: Outcome) -> Result<Outcome, IsolationError> {
        // Nothing can be copied from a lost sandbox, and the outcome states why it was lost.
        if matches!(self.phase, Phase::Over { lost: true, .. }) {
            return Ok(outcome);
        }
        let Self { transport, phase, requests, .. } = self;
        let request = async {
            match requests {
                // If the handle was dropped, the completion need not end early, because no caller waits.
                Some(requests) => match requests.recv().await {
                    Some(reason) => reason,
                    None => pending().await,
                },
                None => pending().await,
            }
        };
        let stopped = tokio::select! {
            biased;
            concluded = transport.conclude() => return concluded.map(|()| outcome),
            reason = request => reason,
            () = phase.timer() => EndReason::WallDeadline,
        };
        let by_itself = matches!(outcome.reason, EndReason::Exited | EndReason::Signalled);
        Ok(Outcome { reason: if by_itself { stopped } else { outcome.reason }, ..outcome })
    }

    /// Returns the outcome of an exec that ended with `end`, without captured output.
    pub(super) fn outcome(&self, end: &End) -> Outcome {
        let wall = self.started.elapsed();
        // The peer enforces the deadline as well, slightly later. It kills the command if this process was stopped when the
        // deadline passed.
        let late = self.wall.is_some_and(|limit| wall > limit);
        let reason = match self.phase.reason() {
            Some(reason) => reason,
            None if late && end.reason == EndReason::Signalled && end.signal == Some(libc::SIGKILL) => EndReason::WallDeadline,
            None => end.reason,
        };
        Outcome {
            reason,
            exit_code: end.exit_code,
            signal: end.signal,
            usage: Usage { wall, ..end.usage },
            stdout: Captured::default(),
            stderr: Captured::default(),
        }
    }
}

impl<T: Transport> Drop for Exec<T> {
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Over { .. }) {
            // The caller no longer waits, so no part of the command may keep running.
            self.transport.end(EndReason::Cancelled);
        }
    }
}

#[cfg(test)]
#[path = "running_tests.rs"]
mod tests;
