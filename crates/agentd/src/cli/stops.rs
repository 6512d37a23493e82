//! Requests to stop: the signals of this process, or the cancellation by a caller of the daemon.

use tokio::signal::unix::{Signal, SignalKind, signal};
#[cfg(feature = "policy")]
use tokio_util::sync::CancellationToken;

/// Signals with a name that end a process without a handler (`signal(7)`). Not included: signals for faults of the program
/// itself, `SIGKILL`, and `SIGPIPE`, which Rust ignores.
const FATAL_SIGNALS: [i32; 14] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Returns every signal that asks agentd to stop: those of [`FATAL_SIGNALS`], and the real-time signals. The C library reserves
/// two more numbers, which [`agentd_kernel::process::set_reserved_signals`] handles.
fn ending() -> impl Iterator<Item = i32> {
    FATAL_SIGNALS.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Where requests to stop come from.
#[derive(Clone)]
pub(crate) enum StopSource {
    /// The signals that ask this process to stop.
    Signals,
    /// A caller of the daemon, who cancels the token once.
    #[cfg(feature = "policy")]
    Caller(CancellationToken),
}

/// Receives requests to stop.
pub(crate) struct Stops {
    source: OpenSource,
    /// The number of requests received so far.
    pub(super) received: u32,
    /// The first request.
    pub(super) first: Option<i32>,
    /// The exit code, once a signal has stopped the wait for the end of the sandbox.
    pub(super) given_up: Option<u8>,
}

enum OpenSource {
    Signals(Vec<(i32, Signal)>),
    #[cfg(feature = "policy")]
    Caller(CancellationToken),
}

impl Stops {
    /// Receives the signals of this process.
    pub(crate) fn new() -> std::io::Result<Self> {
        Self::of(&StopSource::Signals)
    }

    /// Receives the requests of a source.
    pub(crate) fn of(source: &StopSource) -> std::io::Result<Self> {
        let source = match source {
            StopSource::Signals => {
                let signals = ending().map(|number| Ok((number, signal(SignalKind::from_raw(number))?)));
                OpenSource::Signals(signals.collect::<std::io::Result<_>>()?)
            }
            #[cfg(feature = "policy")]
            StopSource::Caller(cancel) => OpenSource::Caller(cancel.clone()),
        };
        Ok(Self { source, received: 0, first: None, given_up: None })
    }

    /// Waits for the next request. Returns the number of the signal; that of `SIGTERM` for a cancellation.
    pub(crate) async fn next(&mut self) -> i32 {
        let stop = self.receive().await;
        self.first.get_or_insert(stop);
        stop
    }

    async fn receive(&mut self) -> i32 {
        match &mut self.source {
            OpenSource::Signals(signals) => {
                let number = std::future::poll_fn(|context| {
                    let received =
                        signals.iter_mut().find_map(|(number, stop)| stop.poll_recv(context).is_ready().then_some(*number));
                    received.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
                });
                let number = number.await;
                self.received += 1;
                number
            }
            #[cfg(feature = "policy")]
            OpenSource::Caller(cancel) => {
                if self.received > 0 {
                    return std::future::pending().await;
                }
                cancel.cancelled().await;
                self.received = 1;
                libc::SIGTERM
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "policy")]
    #[tokio::test]
    async fn cancellation_is_received_once_by_each_receiver() {
        use super::*;

        let cancel = CancellationToken::new();
        let source = StopSource::Caller(cancel.clone());
        let mut early = Stops::of(&source).unwrap();
        cancel.cancel();
        let mut late = Stops::of(&source).unwrap();
        for stops in [&mut early, &mut late] {
            assert_eq!(stops.next().await, libc::SIGTERM);
            assert_eq!(stops.first, Some(libc::SIGTERM));
            let mut again = std::pin::pin!(stops.next());
            let pending = std::future::poll_fn(|context| std::task::Poll::Ready(again.as_mut().poll(context).is_pending()));
            assert!(pending.await);
        }
    }
}
