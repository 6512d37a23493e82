//! Executes one cell: sends its source to the kernel, and reads output and reports until the cell has ended.

use super::{
    super::super::{failure::Failure, stops::Stops, stream, writer},
    name::random,
    streams::{CellOutput, CellStreams, StreamEvent},
};
use agentd_core::{Captured, EndReason, ExecHandle as _, IsolationError, Limits, Outcome, Usage};
use agentd_daemon::Started;
use agentd_engine::SessionCall;
use agentd_interpreter::{CellEnd, CellReader, CellReport, KernelViolation, request};
use agentd_isolation::protect::Report;
use agentd_log::LogFailure as _;
use agentd_records::ContentDigest;
use std::{
    future::pending,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The number of bytes of each stream that a result has.
const CAPTURE: u64 = 256 << 10;

/// The time for which an interrupted cell may continue, unless the terms state another.
const GRACE: Duration = Duration::from_secs(2);

/// A cell that has ended.
pub(super) struct ExecutedCell {
    pub outcome: Outcome,
    /// The digests of standard output, of standard error, and of the reports.
    pub digests: [ContentDigest; 3],
    pub report: CellReport,
    /// The reason why the interpreter has ended with the cell.
    pub lost: Option<String>,
    /// The changes of protected paths since the start of the cell.
    pub protected: Report,
}

/// The reason why the exchange has ended.
enum ExchangeEnd {
    /// The kernel has reported the end of the cell.
    Done(CellEnd),
    /// The kernel has sent something that it must not send.
    Broken(KernelViolation),
    /// The interpreter has ended.
    Ended(Box<Result<Outcome, IsolationError>>),
}

/// A running cell.
struct CellExchange<'c> {
    started: Started,
    streams: CellStreams,
    reader: CellReader,
    output: CellOutput,
    /// The rest of the request.
    request: &'c [u8],
    /// Why the cell was interrupted, if it was.
    reason: Option<EndReason>,
    /// The time at which the interrupted interpreter is killed.
    kill_at: Option<tokio::time::Instant>,
    /// True if the kernel has closed its socket.
    closed: bool,
    grace: Duration,
}

/// Executes a cell under these limits. Its output goes to `live` while it is written, if there is one. A request to stop
/// interrupts the cell, and a second one kills the interpreter.
///
/// # Errors
/// The streams of the interpreter cannot be used. The interpreter is then killed.
pub(super) async fn execute(
    mut started: Started,
    cell: &SessionCall,
    limits: &Limits,
    live: Option<writer::Output>,
    stops: &mut Stops,
) -> Result<ExecutedCell, Failure> {
    let began = Instant::now();
    let number = u32::try_from(random()? >> 32)?;
    let request = request(number, &cell.source);
    let after = started.after();
    let exchange = CellExchange {
        streams: CellStreams::new(started.take_streams())?,
        started,
        reader: CellReader::new(number),
        output: CellOutput::new(limits.output.map(|limit| limit.0), CAPTURE, live.is_some()),
        request: &request,
        reason: None,
        kill_at: None,
        closed: false,
        grace: limits.grace.unwrap_or(GRACE),
    };
    let (sender, mut written, _) = live.unwrap_or_else(writer::start);
    let (mut exchange, end) = exchange.run(limits.wall, &sender, stops).await;
    for stream in 0..2 {
        let arrived = exchange.streams.arrived(stream);
        exchange.output.add(stream, &arrived);
    }
    // A caller that does not read must not keep a cell that was interrupted.
    let give_up = exchange.reason.and_then(|_| tokio::time::Instant::now().checked_add(stream::DRAIN));
    while let Some(piece) = exchange.output.waiting.pop_front() {
        tokio::select! {
            // A closed output has no reader for the rest either.
            sent = sender.send(piece) => if sent.is_err() { break },
            _ = stops.next() => break,
            () = until(give_up) => break,
        }
    }
    drop(sender);
    if let Err(error) = stream::drain(&mut written, stops, exchange.reason.map(|_| stream::DRAIN)).await {
        // The cell has ended, and its result is recorded.
        writer::message(format_args!("{error}"));
    }
    let CellExchange { mut started, reader, output, reason, .. } = exchange;
    let exceeded = output.is_exceeded().then_some(EndReason::OutputLimit);
    let (mut outcome, lost, protected) = match end {
        ExchangeEnd::Done(CellEnd { exit_code, .. }) => {
            let reason = reason.or(exceeded).unwrap_or(EndReason::Exited);
            let exit_code = (reason == EndReason::Exited).then_some(i32::from(exit_code));
            match started.release().await {
                Ok(report) => (outcome_of(reason, exit_code), None, report),
                Err(error) => (outcome_of(reason, exit_code), Some(error.to_string()), Report::default()),
            }
        }
        ExchangeEnd::Broken(violation) => {
            started.end(EndReason::Cancelled).await.or_debug("end interpreter", &violation);
            // The outcome of a killed interpreter states nothing that is not known.
            started.wait().await.or_debug("wait for interpreter", &violation);
            let cause = format!("the kernel broke the protocol: {violation}");
            (outcome_of(EndReason::Cancelled, None), Some(cause), after.report())
        }
        ExchangeEnd::Ended(ended) => match *ended {
            Ok(outcome) => {
                let reason = reason.or(exceeded).unwrap_or(outcome.reason);
                let cause = format!("the interpreter has ended: {}", in_words(&outcome, reason));
                (Outcome { reason, ..outcome }, Some(cause), after.report())
            }
            Err(error) => (outcome_of(EndReason::BackendLost, None), Some(error.to_string()), after.report()),
        },
    };
    let ([out, err], [stdout, stderr]) = output.finish();
    let (report, reports) = reader.finish();
    outcome.usage = Usage { wall: began.elapsed(), ..Usage::default() };
    (outcome.stdout, outcome.stderr) = (stdout, stderr);
    Ok(ExecutedCell { outcome, digests: [out, err, reports], report, lost, protected })
}

fn outcome_of(reason: EndReason, exit_code: Option<i32>) -> Outcome {
    let (stdout, stderr) = (Captured::default(), Captured::default());
    Outcome { reason, exit_code, signal: None, usage: Usage::default(), stdout, stderr }
}

/// Returns how an interpreter has ended.
fn in_words(outcome: &Outcome, reason: EndReason) -> String {
    match (reason, outcome.exit_code, outcome.signal) {
        (EndReason::Exited, Some(127), _) => "exit code 127; the sandbox may not have the program".to_owned(),
        (EndReason::Exited, Some(code), _) => format!("exit code {code}"),
        (EndReason::Signalled, _, Some(signal)) => format!("signal {signal}"),
        (reason, ..) => stream::end_message(reason).unwrap_or("agentd stopped it").to_owned(),
    }
}

impl CellExchange<'_> {
    /// Runs until the cell or the interpreter has ended.
    async fn run(
        mut self,
        wall: Option<Duration>,
        sender: &mpsc::Sender<writer::OutputPiece>,
        stops: &mut Stops,
    ) -> (Self, ExchangeEnd) {
        let deadline = wall.and_then(|wall| tokio::time::Instant::now().checked_add(wall));
        let end = loop {
            if let Some(end) = self.reader.end() {
                break ExchangeEnd::Done(end);
            }
            if self.output.is_exceeded() {
                self.interrupt(EndReason::OutputLimit).await;
            }
            let has_waiting = !self.output.waiting.is_empty();
            let (is_open, is_interrupted, kill_at) = (!self.closed, self.reason.is_some(), self.kill_at);
            let Self { started, streams, request, .. } = &mut self;
            tokio::select! {
                event = streams.next(!has_waiting, !request.is_empty()), if is_open => {
                    if let Err(violation) = self.handle(event) {
                        break ExchangeEnd::Broken(violation);
                    }
                }
                permit = sender.reserve(), if has_waiting => match (permit, self.output.waiting.pop_front()) {
                    (Ok(permit), Some(piece)) => permit.send(piece),
                    // The caller has closed the output. The cell continues, as its result is recorded.
                    _ => self.output.waiting.clear(),
                },
                outcome = started.wait() => {
                    self.read_rest();
                    break ExchangeEnd::Ended(Box::new(outcome));
                }
                _ = stops.next() => {
                    if self.reason.is_some() {
                        self.started.end(EndReason::Cancelled).await.or_debug("end", "interpreter");
                    }
                    self.interrupt(EndReason::Cancelled).await;
                }
                () = until(deadline), if !is_interrupted => self.interrupt(EndReason::WallDeadline).await,
                () = until(kill_at), if kill_at.is_some() => {
                    self.kill_at = None;
                    let reason = self.reason.unwrap_or(EndReason::Cancelled);
                    self.started.end(reason).await.or_debug("end", "interpreter");
                }
            }
        };
        (self, end)
    }

    /// Handles an event of the streams.
    fn handle(&mut self, event: StreamEvent) -> Result<(), KernelViolation> {
        match event {
            StreamEvent::Output(stream) => self.output.add(stream, self.streams.output(stream)),
            StreamEvent::Reports(count) => {
                let reports = self.streams.reports(count);
                self.output.count(reports);
                self.reader.receive(reports)?;
            }
            StreamEvent::Writable => match self.streams.send(self.request) {
                Ok(sent) => self.request = self.request.get(sent..).unwrap_or_default(),
                Err(_) => self.close(),
            },
            StreamEvent::Closed => self.close(),
        }
        Ok(())
    }

    /// Gives up an interpreter that has closed its socket. Usually it has ended, and its outcome arrives soon.
    fn close(&mut self) {
        self.closed = true;
        self.kill_at = self.kill_at.or(tokio::time::Instant::now().checked_add(GRACE));
    }

    /// Reads the reports that an interpreter sent before it ended. Bytes that are no reports do not matter any more.
    fn read_rest(&mut self) {
        loop {
            let count = self.streams.rest();
            if count == 0 || self.output.is_exceeded() || self.reader.receive(self.streams.reports(count)).is_err() {
                return;
            }
            self.output.count(self.streams.reports(count));
        }
    }

    /// Interrupts the cell, unless it was interrupted before. The interpreter is killed if the cell does not end in time.
    async fn interrupt(&mut self, reason: EndReason) {
        if self.reason.is_none() {
            self.reason = Some(reason);
            self.kill_at = tokio::time::Instant::now().checked_add(self.grace);
            self.started.signal(libc::SIGINT).await.or_debug("interrupt", "cell");
        }
    }
}

async fn until(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => pending().await,
    }
}
