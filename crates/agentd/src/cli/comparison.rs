//! The comparison of protected paths before and after a run. A signal or the time limit of the command ends it early, and the
//! report then names the first path that was not compared.

use super::{failure::Failure, stops::Stops};
use agentd_core::Grant;
use agentd_isolation::protect::{Cause, Gaps, Interrupt, Report, Watch};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The protected paths of a run.
pub(crate) struct Comparison {
    /// `None` if the command may change no path of the host, so that there is nothing to compare.
    watch: Option<Arc<Mutex<Watch>>>,
    /// The grant that a report names if a comparison does not return.
    first: PathBuf,
    /// The time limit of the command.
    limit: Option<Duration>,
    began: Instant,
    processes_may_remain: bool,
}

impl Comparison {
    /// Records the current state of the protected paths. `limit` is the time limit of the command, which also ends this
    /// comparison. A payload can prolong the comparison to some seconds. Without [`Stops`], a signal during the comparison ends
    /// agentd.
    pub(crate) fn begin(grants: &[Grant], limit: Option<Duration>) -> Self {
        let watch = (!grants.is_empty()).then(|| Watch::begin(grants, &Interrupt::within(limit)));
        Self::new(watch, grants, limit)
    }

    /// Records the state like [`Comparison::begin`], until a signal asks agentd to stop. Returns that signal in this case.
    ///
    /// # Errors
    /// If a file system does not answer.
    pub(crate) async fn begin_until(
        grants: &[Grant],
        limit: Option<Duration>,
        stops: &mut Stops,
    ) -> Result<Result<Self, i32>, Failure> {
        if grants.is_empty() {
            return Ok(Ok(Self::new(None, grants, limit)));
        }
        let all = grants.to_vec();
        match run(Interrupt::within(limit), move |interrupt| Watch::begin(&all, interrupt), stops).await {
            (_, Some(stop)) => Ok(Err(stop)),
            (watch @ Some(_), None) => Ok(Ok(Self::new(watch, grants, limit))),
            (None, None) => {
                Err("compare protected paths: a file system does not answer — grant a directory on another file system".into())
            }
        }
    }

    fn new(watch: Option<Watch>, grants: &[Grant], limit: Option<Duration>) -> Self {
        let first = grants.first().map(|grant| grant.path.clone()).unwrap_or_default();
        let watch = watch.map(|watch| Arc::new(Mutex::new(watch)));
        Self { watch, first, limit, began: Instant::now(), processes_may_remain: false }
    }

    /// Records that the time limit of the command begins.
    pub(crate) fn command_begins(&mut self) {
        self.began = Instant::now();
    }

    /// Starts the thread that will compare the paths, while the command runs.
    pub(crate) fn start_thread(&self) {
        if self.watch.is_some() {
            // The thread then waits for work for some seconds. If the thread ends before the comparison, another one is started.
            drop(tokio::task::spawn_blocking(|| ()));
        }
    }

    /// Records that the sandbox was not destroyed. The report then states that its processes may change files after the
    /// comparison.
    pub(crate) fn processes_may_remain(&mut self) {
        self.processes_may_remain = true;
    }

    /// Compares the protected paths after the command. Returns all differences, and the first signal, if one ended the
    /// comparison.
    pub(crate) async fn report(&self, stops: &mut Stops) -> (Report, Option<i32>) {
        let Some(watch) = self.watch.clone() else { return (Report::default(), None) };
        let remain = self.processes_may_remain;
        let compare = move |interrupt: &Interrupt| {
            let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
            if remain {
                watch.processes_may_remain();
            }
            watch.full_report(interrupt)
        };
        let (report, stopped) = run(Interrupt::after_command(self.began, self.limit), compare, stops).await;
        let nothing = || Report { gaps: Gaps::of(&self.first, Cause::Interrupted), ..Report::default() };
        (report.unwrap_or_else(nothing), stopped)
    }
}

/// Runs a comparison. Returns its result, unless it does not return, and the first signal that ended it.
async fn run<T: Send + 'static>(
    interrupt: Interrupt,
    compare: impl FnOnce(&Interrupt) -> T + Send + 'static,
    stops: &mut Stops,
) -> (Option<T>, Option<i32>) {
    let mut compared = std::pin::pin!(interrupt.run(compare));
    tokio::select! {
        biased;
        compared = &mut compared => (compared, None),
        stop = stops.next() => {
            interrupt.ask();
            (compared.await, Some(stop))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Access;
    use agentd_isolation::protect;

    /// A signal that no other test sends.
    const STOP: rustix::process::Signal = rustix::process::Signal::VTALARM;

    /// Held by a test that sends or expects the signal: all tests of this process receive it.
    static SIGNAL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn grants(root: &tempfile::TempDir) -> [Grant; 1] {
        let protect = protect::names(root.path()).unwrap();
        [Grant { protect, ..Grant::new(root.path(), Access::ReadWrite) }]
    }

    /// Sends the signal to this process, and waits until the runtime has received it.
    async fn stop() {
        let kind = tokio::signal::unix::SignalKind::from_raw(STOP.as_raw());
        let mut received = tokio::signal::unix::signal(kind).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), STOP).unwrap();
        received.recv().await.unwrap();
    }

    /// Lets comparisons wait until the result is dropped.
    fn hold(compared: &Comparison) -> std::sync::mpsc::Sender<()> {
        let watch = compared.watch.clone().unwrap();
        let (holds, is_held) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let watch = watch.lock().unwrap();
            holds.send(()).unwrap();
            released.recv().ok();
            drop(watch);
        });
        is_held.recv().unwrap();
        release
    }

    #[tokio::test]
    async fn without_grants_nothing_is_compared_and_a_signal_ends_nothing() {
        let _alone = SIGNAL.lock().await;
        let mut stops = Stops::new().unwrap();
        let mut compared = Comparison::begin(&[], None);
        compared.processes_may_remain();
        stop().await;
        let (report, stopped) = compared.report(&mut stops).await;
        assert_eq!((report.changes.len(), report.gaps.is_empty(), stopped), (0, true, None));
        assert_eq!(stops.next().await, STOP.as_raw());
    }

    #[tokio::test]
    async fn signal_ends_comparison_and_report_names_uncompared_path() {
        let _alone = SIGNAL.lock().await;
        let root = tempfile::tempdir().unwrap();
        let compared = Comparison::begin(&grants(&root), None);
        std::fs::write(root.path().join(".envrc"), "evil").unwrap();
        let mut stops = Stops::new().unwrap();
        stop().await;
        // The comparison begins once the signal has been handled.
        let held = hold(&compared);
        let release = async move { drop(held) };
        let ((report, stopped), ()) = tokio::join!(compared.report(&mut stops), release);
        assert_eq!(stopped, Some(STOP.as_raw()));
        assert_eq!(report.gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), [Cause::Interrupted]);
        // The next comparison is complete.
        let (report, stopped) = compared.report(&mut stops).await;
        assert_eq!((report.changes.len(), report.gaps.is_empty(), stopped), (1, true, None));
    }

    #[tokio::test(start_paused = true)]
    async fn comparison_that_does_not_return_is_given_up_after_the_time_limit() {
        let root = tempfile::tempdir().unwrap();
        let mut compared = Comparison::begin(&grants(&root), Some(Duration::from_secs(1)));
        compared.command_begins();
        let mut stops = Stops::new().unwrap();
        let held = hold(&compared);
        let pass = async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
                tokio::time::advance(Duration::from_secs(10)).await;
            }
        };
        // Another test of this process may send a signal in the meantime.
        let ((report, _), ()) = tokio::join!(compared.report(&mut stops), pass);
        drop(held);
        let gaps: Vec<_> = report.gaps.iter().map(|gap| (gap.path.as_path(), gap.cause)).collect();
        assert_eq!(gaps, [(root.path(), Cause::Interrupted)]);
    }

    #[tokio::test]
    async fn signal_ends_the_first_comparison_and_without_one_the_run_goes_on() {
        let _alone = SIGNAL.lock().await;
        let root = tempfile::tempdir().unwrap();
        let mut stops = Stops::new().unwrap();
        assert!(Comparison::begin_until(&grants(&root), None, &mut stops).await.unwrap().is_ok());
        // The signal requests the interrupt immediately. The comparison cannot end before that.
        let (began, ends) = std::sync::mpsc::channel::<()>();
        let waits = move |interrupt: &Interrupt| {
            while !interrupt.is_due() {
                ends.recv_timeout(Duration::from_millis(1)).ok();
            }
        };
        let mut stops = Stops::new().unwrap();
        stop().await;
        assert_eq!(run(Interrupt::default(), waits, &mut stops).await, (Some(()), Some(STOP.as_raw())));
        drop(began);
    }
}
