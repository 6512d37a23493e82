//! A warm pool: sandboxes of one spec that were made in advance, so that who needs one does not wait for its making.
//!
//! The law of it: **a sandbox that was used is never given to another**. What is taken does not come back; its taker destroys it. What
//! waits here has run nothing. `stock` decides, on values, what is to be done next; `keeper` does it in the background; this file is
//! what takers and the owner see.

mod keeper;
mod stock;

use agentd_core::{IsolationBackend, IsolationError, Sandbox, SandboxSpec, Writable};
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use stock::Stock;
use tokio::{
    runtime::Handle,
    sync::{Notify, RwLock, Semaphore},
    task::AbortHandle,
};

/// What a pool keeps, and how it comes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLimits {
    /// How many spare sandboxes are kept. Each is a process that waits, with its namespaces and a tmpfs that is empty.
    pub spare: usize,
    /// How many may be in the making at once, by takers and in the background together: a burst of takers waits its turn instead of
    /// starting as many processes as it has members.
    pub making: NonZeroUsize,
    /// How long a pool that was full waits before it fills up again. Making a sandbox takes both processors of a small machine, and
    /// whoever has just taken one is about to use it. Once begun, filling goes on until the pool is full.
    pub rest: Duration,
    /// A spare that is older is replaced, and never given out: what it shows is as of its making. At least a second, so that the
    /// background does something else than replacing.
    pub max_age: Duration,
}

/// The least that [`PoolLimits::max_age`] may be.
const LEAST_MAX_AGE: Duration = Duration::from_secs(1);

impl Default for PoolLimits {
    fn default() -> Self {
        Self { spare: 2, making: NonZeroUsize::MIN, rest: Duration::from_millis(5), max_age: Duration::from_secs(60) }
    }
}

/// Spare sandboxes of one spec on one backend, refilled in the background. See the head of its module for the law it holds.
///
/// # What a spare shows
///
/// It is as of its making, at most [`PoolLimits::max_age`] ago: which directories there are below `/`, where symbolic links of
/// grants lead, which file systems are mounted, which layers an image has. A directory that is made, replaced by `rename`, or mounted
/// over on the host afterwards is not there, or still the old one. The content of what is shown is the host's as it is now, as in any
/// sandbox that lives. Every spare has the same grants: give a writable one only to takers who may read each other's files.
///
/// # Ends
///
/// [`SandboxPool::drain`] is the orderly end. A pool that is dropped instead drops its spares, which destroys them without
/// anybody waiting for it. Sandboxes that were taken belong to their takers in both cases.
///
/// ```no_run
/// use agentd_isolation::{Command, IsolationError, PoolLimits, SandboxPool, SandboxSpec, detect_best_backend, take_role};
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn serve() -> Result<(), IsolationError> {
///     let backend = detect_best_backend(&std::env::temp_dir()).await;
///     let pool = SandboxPool::new(backend, SandboxSpec::default(), PoolLimits { spare: 4, ..PoolLimits::default() })?;
///     pool.filled().await?; // optional: the first taker does not wait either, and a backend that fails is noticed here
///     for program in ["/bin/uname", "/bin/date"] {
///         let sandbox = pool.take().await?;
///         let outcome = sandbox.exec(Command { argv: vec![program.into()], ..Command::default() }).await;
///         sandbox.destroy().await?;
///         println!("{}", String::from_utf8_lossy(&outcome?.stdout.to_bytes()));
///     }
///     pool.drain().await
/// }
///
/// fn main() -> Result<(), IsolationError> {
///     take_role();
///     serve()
/// }
/// ```
pub struct SandboxPool {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

/// What takers and the keeper share.
struct Shared {
    backend: Arc<dyn IsolationBackend>,
    spec: SandboxSpec,
    stock: Mutex<Stock<Arc<dyn Sandbox>>>,
    /// One permit for each sandbox that may be in the making.
    making: Semaphore,
    /// Held by everybody who has a sandbox in hand that is neither in stock nor given out yet; wholly by who drains.
    hands: RwLock<()>,
    /// Tells the keeper to look at the stock again.
    work: Notify,
    /// Tells those who wait in [`SandboxPool::filled`] to look at it.
    changed: Notify,
}

impl SandboxPool {
    /// A pool of sandboxes of `spec` on `backend`, which starts to fill at once. It lives in the runtime it is made in, and so do its
    /// sandboxes.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] for a spec that no two sandboxes can have at once, limits that cannot be, or outside a tokio
    /// runtime. What the backend finds wrong with it is told by [`SandboxPool::filled`] and [`SandboxPool::take`].
    pub fn new(backend: Arc<dyn IsolationBackend>, spec: SandboxSpec, limits: PoolLimits) -> Result<Self, IsolationError> {
        let invalid = |what: &str, reason: &str| IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() };
        if spec.writable != Writable::Memory {
            let reason = "a directory of changes belongs to one sandbox, and a pool has several: use memory, or create_sandbox";
            return Err(invalid("writable", reason));
        }
        if limits.max_age < LEAST_MAX_AGE {
            return Err(invalid("max_age", "a spare may live for a second at least"));
        }
        let runtime = Handle::try_current().map_err(|_| invalid("pool", "it must be made in a tokio runtime"))?;
        let making = Semaphore::new(limits.making.get().min(Semaphore::MAX_PERMITS));
        let shared = Arc::new(Shared {
            backend,
            spec,
            stock: Mutex::new(Stock::new(limits, Instant::now())),
            making,
            hands: RwLock::new(()),
            work: Notify::new(),
            changed: Notify::new(),
        });
        let keeper = runtime.spawn(keeper::keep(shared.clone())).abort_handle();
        Ok(Self { shared, keeper })
    }

    /// A sandbox that has run nothing: a spare one at once if there is one alive, otherwise one that is made now, as soon as
    /// [`PoolLimits::making`] lets it. It is the caller's to destroy.
    ///
    /// # Errors
    /// [`IsolationError::PoolDrained`], or what the backend says when one has to be made: a pool that cannot be filled fails
    /// its takers, and serves them again as soon as the backend does.
    pub async fn take(&self) -> Result<Arc<dyn Sandbox>, IsolationError> {
        let shared = &self.shared;
        let _in_hand = shared.hands.read().await;
        if let Some(spare) = shared.spare().await? {
            return Ok(spare);
        }
        let _turn = shared.turn().await?;
        // The keeper may have made one meanwhile.
        if let Some(spare) = shared.spare().await? {
            return Ok(spare);
        }
        let made = shared.backend.create_sandbox(shared.spec.clone()).await?;
        if shared.stock().recover(Instant::now()) {
            shared.work.notify_one();
        }
        Ok(made)
    }

    /// Waits until as many spares are there as the pool keeps.
    ///
    /// # Errors
    /// [`IsolationError::PoolDrained`], or why the last attempt to fill it failed; each failure is told once. It is tried again,
    /// less and less often, whether anybody waits or not.
    pub async fn filled(&self) -> Result<(), IsolationError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // From here on nothing is missed.
            changed.as_mut().enable();
            if self.shared.stock().filled()? {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Ends the pool: no more refilling, and when this returns, nothing is left of any spare. It waits for the takes that are under
    /// way, which may still get what they began to make; later ones are refused. Draining twice is no error.
    ///
    /// # Errors
    /// The first failure to destroy a spare; the others are destroyed all the same.
    pub async fn drain(&self) -> Result<(), IsolationError> {
        self.shared.stock().close();
        self.shared.work.notify_one();
        self.shared.changed.notify_waiters();
        let _all_hands = self.shared.hands.write().await;
        let mut first = Ok(());
        loop {
            // It stays in stock until it is gone: who gives up waiting here may come again.
            let Some(spare) = self.shared.stock().last_of_all().cloned() else { return first };
            let destroyed = spare.destroy().await;
            first = first.and(destroyed);
            self.shared.stock().forget_last();
        }
    }
}

impl Drop for SandboxPool {
    fn drop(&mut self) {
        self.keeper.abort();
        let left = self.shared.stock().abandon();
        drop(left);
    }
}

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock<Arc<dyn Sandbox>>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spare that is alive, if there is one. Dead ones on the way are left to the keeper.
    async fn spare(&self) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        loop {
            let taken = self.stock().take(Instant::now())?;
            // Whether or not there was one, there is one less than there should be.
            self.work.notify_one();
            let Some(spare) = taken else { return Ok(None) };
            if spare.is_alive().await {
                return Ok(Some(spare));
            }
            self.stock().discard(spare);
        }
    }

    /// Waits for one's turn to make a sandbox.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, IsolationError> {
        // It is never closed.
        self.making.acquire().await.map_err(|_| IsolationError::PoolDrained)
    }
}
