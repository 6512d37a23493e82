//! A thread that exchanges two paths while a test works.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Pauses between two exchanges. Without a pause, the path changes many times during one attempt; with the longest, whole
/// attempts meet one of the two objects.
const PAUSES: [Duration; 5] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(100)];

/// The time for which a pause is used, at least.
const PHASE: Duration = Duration::from_millis(50);

/// The number of attempts within which a test must have seen every kind of outcome.
pub const MAX_ATTEMPTS: u32 = 1000;

/// Exchanges two paths until it is dropped. Each path then leads to its first object again.
pub struct Exchange {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    pub fn begin(one: &Path, other: &Path) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (one, other, ends) = (one.to_path_buf(), other.to_path_buf(), done.clone());
        let thread = std::thread::spawn(move || {
            let exchange = || renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            for pause in PAUSES.into_iter().cycle() {
                let began = Instant::now();
                while began.elapsed() < PHASE {
                    for _ in 0..2 {
                        exchange();
                        std::thread::sleep(pause);
                    }
                    if ends.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the exchange failed");
    }
}
