//! Tests of the state machine with a scripted peer, in virtual time.

use super::{
    super::{
        capture, handle,
        transport::{ExecControl, Input, Output, Pipes},
    },
    *,
};
#[path = "running_handle_tests.rs"]
mod handles;

use agentd_core::{Bytes, ExecHandle, ExecStreams, PtySize};
use std::{
    future::ready,
    sync::{Arc, Mutex},
};
use tokio::{sync::mpsc::UnboundedReceiver, time::sleep};

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Terminate,
    End(EndReason),
    Kill,
}

/// The calls of the state machine to the peer, each with the second at which it occurred.
type Calls = Vec<(u64, Call)>;

/// The way in which the completion of an exec ends.
#[derive(Debug, Clone, Copy)]
enum Conclusion {
    AtOnce,
    /// After this number of seconds.
    After(u64),
    Failed,
}

/// A peer that answers calls as a test scripts it.
struct Scripted {
    began: Instant,
    calls: Arc<Mutex<Calls>>,
    events: UnboundedReceiver<Event>,
    send: mpsc::UnboundedSender<Event>,
    answer: fn(Call) -> Option<Event>,
    limit: Option<(u64, EndReason)>,
    conclusion: Conclusion,
}

impl Scripted {
    fn record(&self, call: Call) {
        self.calls.lock().unwrap().push((self.began.elapsed().as_secs(), call));
        if let Some(event) = (self.answer)(call) {
            self.send.send(event).unwrap();
        }
    }
}

impl ExecControl for () {
    fn signal(&self, _signal: i32) -> Result<(), IsolationError> {
        Ok(())
    }

    fn resize(&self, _size: PtySize) -> Result<(), IsolationError> {
        Ok(())
    }
}

impl Input for () {
    async fn write_all(&mut self, _bytes: &[u8]) {}
}

/// An output stream. Every message has four bytes.
struct Stream {
    messages: UnboundedReceiver<Vec<u8>>,
    /// Sends another message after each that is read at once, as a writer outside the ended command.
    more: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Output for Stream {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> bool {
        let bytes = self.messages.recv().await;
        bytes.map(|bytes| *buffer = bytes).is_some()
    }

    fn arrived(&self) -> usize {
        4 * self.messages.len()
    }

    fn read_now(&mut self, buffer: &mut Vec<u8>) -> bool {
        if let Some(more) = &self.more {
            more.send(b"more".to_vec()).unwrap();
        }
        self.messages.try_recv().map(|bytes| *buffer = bytes).is_ok()
    }
}

impl Transport for Scripted {
    type Input = ();
    type Output = Stream;
    type ExecControl = ();

    fn control(&mut self) {}

    async fn event(&mut self) -> Event {
        self.events.recv().await.unwrap()
    }

    fn terminate(&self) {
        self.record(Call::Terminate);
    }

    fn end(&self, reason: EndReason) {
        self.record(Call::End(reason));
    }

    fn kill(&self) {
        self.record(Call::Kill);
    }

    fn max_wait(&self) -> Timer {
        Box::pin(sleep(TIMEOUT))
    }

    fn limits(&self) -> LimitWatch {
        let limit = self.limit;
        Box::pin(async move {
            let Some((second, reason)) = limit else { return pending().await };
            sleep(Duration::from_secs(second)).await;
            reason
        })
    }

    async fn conclude(&self) -> Result<(), IsolationError> {
        match self.conclusion {
            Conclusion::AtOnce => Ok(()),
            Conclusion::After(second) => {
                sleep(Duration::from_secs(second)).await;
                Ok(())
            }
            Conclusion::Failed => Err(IsolationError::MachineLost("nothing can be copied".to_owned())),
        }
    }
}

/// An exec under test, the recorded calls, and the sender of its events.
struct Test {
    exec: Exec<Scripted>,
    calls: Arc<Mutex<Calls>>,
    send: mpsc::UnboundedSender<Event>,
}

/// Creates an exec with a deadline at second 10 and the given limits. The peer answers calls with `answer`.
fn test(grace: u64, limit: Option<(u64, EndReason)>, answer: fn(Call) -> Option<Event>) -> Test {
    let (send, events) = mpsc::unbounded_channel();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let transport = Scripted {
        began: Instant::now(),
        calls: calls.clone(),
        events,
        send: send.clone(),
        answer,
        limit,
        conclusion: Conclusion::AtOnce,
    };
    let limits = Limits {
        wall: Some(Duration::from_secs(10)),
        grace: Some(Duration::from_secs(grace)),
        output: Some(Bytes(10)),
        ..Limits::default()
    };
    Test { exec: Exec::new(transport, &limits), calls, send }
}

impl Test {
    /// Sends an event at this second.
    fn at(&self, second: u64, event: Event) {
        let send = self.send.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(second)).await;
            send.send(event).ok();
        });
    }

    fn calls(&self) -> Calls {
        self.calls.lock().unwrap().clone()
    }

    /// Runs the exec with an output stream that delivers four bytes at each of these seconds.
    async fn captured(self, seconds: &'static [u64]) -> (Outcome, Calls) {
        let (send, messages) = mpsc::unbounded_channel();
        let output = Stream { messages, more: None };
        tokio::spawn(async move {
            let began = Instant::now();
            for second in seconds {
                tokio::time::sleep_until(began + Duration::from_secs(*second)).await;
                send.send(b"text".to_vec()).ok();
            }
            pending::<()>().await;
        });
        let pipes = Pipes { input: None, outputs: [Some(output), None] };
        let outcome = capture::run_to_end(self.exec, pipes, &[], 0).await.unwrap();
        let calls = self.calls.lock().unwrap().clone();
        (outcome, calls)
    }
}

fn exited(code: i32) -> Event {
    Event::Ended(End { reason: EndReason::Exited, exit_code: Some(code), signal: None, usage: Usage::default() })
}

fn killed() -> Event {
    Event::Ended(End { reason: EndReason::Signalled, exit_code: None, signal: Some(libc::SIGKILL), usage: Usage::default() })
}

fn lost(reason: Option<EndReason>) -> Event {
    let usage = Usage { peak_memory: 7, ..Usage::default() };
    Event::Lost { error: IsolationError::SupervisorDied("end of stream".to_owned()), reason, usage }
}

/// Answers as a peer that ends the command when ordered to.
fn obedient(call: Call) -> Option<Event> {
    matches!(call, Call::End(_)).then(killed)
}

/// Answers as a peer that ignores all calls, and is lost when its sandbox is killed.
fn deaf(call: Call) -> Option<Event> {
    (call == Call::Kill).then(|| lost(None))
}

#[tokio::test(start_paused = true)]
async fn exec_that_exits_before_deadline_is_not_ended() {
    let mut test = test(5, None, obedient);
    test.at(9, exited(3));
    let outcome = test.exec.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.exit_code), (EndReason::Exited, Some(3)));
    assert_eq!(outcome.usage.wall, Duration::from_secs(9));
    let calls = test.calls();
    drop(test.exec);
    assert_eq!(calls, []);
}

#[tokio::test(start_paused = true)]
async fn deadline_without_grace_ends_the_command_at_once() {
    let mut test = test(0, None, obedient);
    let outcome = test.exec.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.signal), (EndReason::WallDeadline, Some(libc::SIGKILL)));
    assert_eq!(test.calls(), [(10, Call::End(EndReason::WallDeadline))]);
}

#[tokio::test(start_paused = true)]
async fn deadline_with_grace_terminates_the_command_before_it_is_ended() {
    let mut test = test(5, None, obedient);
    assert_eq!(test.exec.wait().await.unwrap().reason, EndReason::WallDeadline);
    assert_eq!(test.calls(), [(10, Call::Terminate), (15, Call::End(EndReason::WallDeadline))]);
}

#[tokio::test(start_paused = true)]
async fn exit_within_the_grace_period_is_reported_as_a_deadline_with_its_exit_code() {
    let mut test = test(5, None, |call| (call == Call::Terminate).then(|| exited(3)));
    let outcome = test.exec.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.exit_code), (EndReason::WallDeadline, Some(3)));
    assert_eq!(test.calls(), [(10, Call::Terminate)]);
}

#[tokio::test(start_paused = true)]
async fn peer_that_misses_end_timeout_has_its_sandbox_killed() {
    let mut test = test(0, None, deaf);
    let outcome = test.exec.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.signal), (EndReason::WallDeadline, Some(libc::SIGKILL)));
    assert_eq!(test.calls(), [(10, Call::End(EndReason::WallDeadline)), (12, Call::Kill)]);
}

#[tokio::test(start_paused = true)]
async fn limit_exceeded_ends_the_command() {
    let mut test = test(5, Some((3, EndReason::CpuLimit)), obedient);
    assert_eq!(test.exec.wait().await.unwrap().reason, EndReason::CpuLimit);
    assert_eq!(test.calls(), [(3, Call::End(EndReason::CpuLimit))]);
}

#[tokio::test(start_paused = true)]
async fn limit_exceeded_within_the_grace_period_ends_it_and_keeps_the_first_reason() {
    for limit in [EndReason::CpuLimit, EndReason::OutOfMemory, EndReason::ProcessLimit] {
        let mut test = test(5, Some((12, limit)), obedient);
        assert_eq!(test.exec.wait().await.unwrap().reason, EndReason::WallDeadline);
        assert_eq!(test.calls(), [(10, Call::Terminate), (12, Call::End(EndReason::WallDeadline))]);
    }
}

#[tokio::test(start_paused = true)]
async fn limit_exceeded_while_the_command_is_ended_changes_nothing() {
    let mut test = test(0, Some((11, EndReason::CpuLimit)), deaf);
    assert_eq!(test.exec.wait().await.unwrap().reason, EndReason::WallDeadline);
    assert_eq!(test.calls(), [(10, Call::End(EndReason::WallDeadline)), (12, Call::Kill)]);
}

#[tokio::test(start_paused = true)]
async fn output_over_the_limit_ends_the_command() {
    let (outcome, calls) = test(5, None, obedient).captured(&[1, 2, 3]).await;
    assert_eq!((outcome.reason, outcome.stdout.total()), (EndReason::OutputLimit, 12));
    assert_eq!(calls, [(3, Call::End(EndReason::OutputLimit))]);
}

#[tokio::test(start_paused = true)]
async fn output_over_the_limit_within_the_grace_period_ends_it() {
    let (outcome, calls) = test(5, None, obedient).captured(&[1, 11, 12]).await;
    assert_eq!((outcome.reason, outcome.stdout.total()), (EndReason::WallDeadline, 12));
    assert_eq!(calls, [(10, Call::Terminate), (12, Call::End(EndReason::WallDeadline))]);
}

#[tokio::test(start_paused = true)]
async fn output_over_the_limit_that_arrives_with_the_end_is_reported() {
    let (send, messages) = mpsc::unbounded_channel();
    let output = Stream { messages, more: None };
    let test = test(5, None, obedient);
    for _ in 0..3 {
        send.send(b"text".to_vec()).unwrap();
    }
    test.send.send(exited(0)).unwrap();
    let pipes = Pipes { input: None, outputs: [None, Some(output)] };
    let outcome = capture::run_to_end(test.exec, pipes, &[], 0).await.unwrap();
    assert_eq!((outcome.reason, outcome.stderr.total()), (EndReason::OutputLimit, 12));
}

#[tokio::test(start_paused = true)]
async fn output_of_a_command_does_not_delay_its_end() {
    let (outcome, calls) = test(3, None, deaf).captured(&[9, 12, 14]).await;
    assert_eq!(outcome.reason, EndReason::WallDeadline);
    let expected = [(10, Call::Terminate), (13, Call::End(EndReason::WallDeadline)), (15, Call::Kill)];
    assert_eq!(calls, expected);
}

#[tokio::test(start_paused = true)]
async fn loss_of_peer_in_any_phase_ends_exec() {
    let ended = Some(EndReason::WallDeadline);
    let cases = [
        ("running", 5, 5, None, None),
        ("running, out of memory", 5, 5, Some(EndReason::OutOfMemory), Some(EndReason::OutOfMemory)),
        ("grace", 5, 12, None, ended),
        ("grace, out of memory", 5, 12, Some(EndReason::OutOfMemory), ended),
        ("ending", 0, 11, None, ended),
        ("killed", 0, 20, None, ended),
    ];
    for (phase, grace, second, shown, expected) in cases {
        let mut test = test(grace, None, |_| None);
        test.at(second, lost(shown));
        match (test.exec.wait().await, expected) {
            (Ok(outcome), Some(reason)) => {
                assert_eq!((outcome.reason, outcome.signal), (reason, Some(libc::SIGKILL)), "{phase}");
                assert_eq!((outcome.usage.wall.as_secs(), outcome.usage.peak_memory), (second, 7), "{phase}");
            }
            (Err(IsolationError::SupervisorDied(_)), None) => {}
            (result, _) => panic!("{phase}: {result:?}"),
        }
        let calls = test.calls();
        drop(test.exec);
        assert_eq!(test.calls.lock().unwrap().len(), calls.len(), "{phase}: an exec that is over is not ended again");
    }
}

#[tokio::test(start_paused = true)]
async fn kill_by_the_peer_after_a_missed_deadline_is_reported_as_the_deadline() {
    for (event, expected) in [(killed(), EndReason::WallDeadline), (exited(0), EndReason::Exited)] {
        let mut test = test(0, None, obedient);
        test.send.send(event).unwrap();
        // This simulates a process that was stopped until then.
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(test.exec.wait().await.unwrap().reason, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn command_that_fails_to_start_returns_error_and_is_not_ended() {
    let mut test = test(0, None, obedient);
    test.send.send(Event::NotStarted(IsolationError::Spawn { program: "x".to_owned(), errno: libc::ENOENT })).unwrap();
    assert!(matches!(test.exec.wait().await, Err(IsolationError::Spawn { errno: libc::ENOENT, .. })));
    drop(test.exec);
    assert_eq!(test.calls.lock().unwrap().clone(), []);
}

#[tokio::test(start_paused = true)]
async fn event_out_of_order_is_an_error_and_the_command_is_ended() {
    let mut test = test(0, None, |_| None);
    test.send.send(Event::Misplaced(IsolationError::Protocol("x".to_owned()))).unwrap();
    assert!(matches!(test.exec.wait().await, Err(IsolationError::Protocol(_))));
    drop(test.exec);
    assert_eq!(test.calls.lock().unwrap().clone(), [(0, Call::End(EndReason::Cancelled))]);
}

#[tokio::test(start_paused = true)]
async fn exec_that_is_dropped_in_any_phase_ends_its_command() {
    for (grace, second, expected) in [(5, 5, 1), (5, 12, 2), (0, 11, 2), (0, 20, 3)] {
        let mut test = test(grace, None, |_| None);
        assert!(tokio::time::timeout(Duration::from_secs(second), test.exec.wait()).await.is_err());
        drop(test.exec);
        let calls = test.calls.lock().unwrap().clone();
        assert_eq!((calls.len(), calls.last()), (expected, Some(&(second, Call::End(EndReason::Cancelled)))));
    }
}

/// Returns a handle on the exec of a test, and the recorded calls.
fn handle(test: Test) -> (Box<dyn ExecHandle>, Arc<Mutex<Calls>>) {
    let Test { exec, calls, .. } = test;
    (handle::spawn(exec, ExecStreams::default(), ready(())), calls)
}

#[tokio::test(start_paused = true)]
async fn sandbox_lost_after_the_deadline_is_reported_as_the_deadline() {
    for captured in [false, true] {
        let mut test = test(0, None, deaf);
        test.exec.transport.conclusion = Conclusion::Failed;
        let outcome = if captured { test.captured(&[]).await.0 } else { test.exec.wait().await.unwrap() };
        assert_eq!((outcome.reason, outcome.signal), (EndReason::WallDeadline, Some(libc::SIGKILL)));
    }
}

#[tokio::test(start_paused = true)]
async fn request_to_end_stops_the_completion_of_an_exec() {
    let mut test = test(5, None, |_| None);
    test.exec.transport.conclusion = Conclusion::After(1000);
    test.at(1, exited(3));
    let began = Instant::now();
    let (mut handle, calls) = handle(test);
    sleep(Duration::from_secs(3)).await;
    handle.end(EndReason::Cancelled).await.unwrap();
    let outcome = handle.wait().await.unwrap();
    assert_eq!((outcome.reason, outcome.exit_code), (EndReason::Cancelled, Some(3)));
    assert_eq!((began.elapsed().as_secs(), calls.lock().unwrap().clone()), (3, vec![]));
}

#[tokio::test(start_paused = true)]
async fn deadline_and_its_grace_period_stop_the_completion_of_an_exec() {
    for (captured, grace) in [(false, 0), (false, 5), (true, 5)] {
        let mut test = test(grace, None, |_| None);
        test.exec.transport.conclusion = Conclusion::After(1000);
        test.at(1, exited(3));
        let began = Instant::now();
        let outcome = if captured { test.captured(&[]).await.0 } else { test.exec.wait().await.unwrap() };
        assert_eq!((outcome.reason, outcome.exit_code), (EndReason::WallDeadline, Some(3)));
        assert_eq!(began.elapsed().as_secs(), 10 + grace);
    }
}

#[tokio::test(start_paused = true)]
async fn exec_that_was_ended_is_completed_whatever_was_requested_before_its_end() {
    let mut test = test(0, None, |_| None);
    test.exec.transport.conclusion = Conclusion::After(20);
    test.at(2, killed());
    let began = Instant::now();
    let (mut handle, _) = handle(test);
    sleep(Duration::from_secs(1)).await;
    for _ in 0..2 {
        handle.end(EndReason::OutputLimit).await.unwrap();
    }
    assert_eq!(handle.wait().await.unwrap().reason, EndReason::OutputLimit);
    assert_eq!(began.elapsed().as_secs(), 22);
}

#[tokio::test(start_paused = true)]
async fn output_that_arrives_after_the_end_is_not_waited_for() {
    let (send, messages) = mpsc::unbounded_channel();
    for _ in 0..2 {
        send.send(b"text".to_vec()).unwrap();
    }
    let test = test(0, None, |_| None);
    test.send.send(exited(0)).unwrap();
    let pipes = Pipes { input: None, outputs: [Some(Stream { messages, more: Some(send) }), None] };
    let outcome = capture::run_to_end(test.exec, pipes, &[], 0).await.unwrap();
    assert_eq!(outcome.stdout.total(), 8);
}
