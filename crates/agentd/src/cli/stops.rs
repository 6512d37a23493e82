//! The signals that ask agentd to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Receives the signals that ask agentd to stop.
pub(crate) struct Stops {
    signals: Vec<(i32, Signal)>,
    /// The number of signals received so far.
    pub(super) received: u32,
    /// The exit code, once a signal has stopped the wait for the end of the sandbox.
    pub(super) given_up: Option<u8>,
}

impl Stops {
    pub(crate) fn new() -> std::io::Result<Self> {
        let signals = ending().map(|number| Ok((number, signal(SignalKind::from_raw(number))?)));
        Ok(Self { signals: signals.collect::<std::io::Result<_>>()?, received: 0, given_up: None })
    }

    /// Waits for the next signal and returns its number.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, stop) in &mut self.signals {
                if stop.poll_recv(context).is_ready() {
                    self.received += 1;
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
