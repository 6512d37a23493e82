//! The warm pool: a used sandbox is never returned again, and nothing remains of unused ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../examples/pool.rs"]
mod example;
#[path = "support/mod.rs"]
mod support;

use agentd::isolation::{
    BackendCapabilities, DiskLayers, IsolationBackend, IsolationError, PoolLimits, Sandbox, SandboxId, SandboxPool, SandboxSpec,
    Writable,
};
use agentd_telemetry::{Metrics, measured_layer};
use async_trait::async_trait;
use libtest_mimic::Trial;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use support::{
    backend,
    inventory::{Inventory, limits},
    out, run_one_at_a_time, sh, trial,
};
use tracing_subscriber::layer::SubscriberExt as _;

/// Backends whose sandboxes have private files and processes.
const PRIVATE: [&str; 2] = ["linux-native", "container"];

fn main() {
    agentd::isolation::take_role();
    let mut trials = vec![
        trial("failing_backend_fails_take_and_is_retried".to_owned(), failing),
        trial("pool_with_invalid_spec_or_limits_is_refused".to_owned(), refused),
        Trial::test("documentation_example_runs", || example::main().map_err(Into::into)),
    ];
    for name in ["host-direct", "linux-native", "container"] {
        trials.push(trial_on(name, "take_never_returns_used_sandbox", once));
        trials.push(trial_on(name, "more_takes_than_idle_sandboxes_all_succeed", burst));
        trials.push(trial_on(name, "drained_pool_leaves_nothing_and_take_fails", drained));
        trials.push(trial_on(name, "dropped_pool_leaves_nothing", dropped));
        trials.push(trial_on(name, "take_is_counted_as_hit_or_miss", counted));
    }
    for name in PRIVATE {
        trials.push(trial_on(name, "file_of_used_sandbox_is_in_no_later_sandbox", files));
        trials.push(trial_on(name, "dead_idle_sandbox_is_not_returned", dead));
        trials.push(trial_on(name, "idle_sandbox_above_max_age_is_replaced", aged));
    }
    run_one_at_a_time(trials)
}

fn trial_on<F: Future<Output = ()> + 'static>(backend: &'static str, name: &str, test: fn(&'static str) -> F) -> Trial {
    trial(format!("{backend}::{name}"), move || test(backend))
}

fn with(idle: usize, create_permits: usize) -> PoolLimits {
    PoolLimits { idle, create_permits: NonZeroUsize::new(create_permits).unwrap(), ..PoolLimits::default() }
}

/// Returns a spec whose limits need a control group, if this user may create one.
fn limited() -> SandboxSpec {
    SandboxSpec { limits: limits(), ..SandboxSpec::default() }
}

/// Returns the inventory after the launcher and its groups were used once.
async fn settled(backend: &Arc<dyn IsolationBackend>) -> Inventory {
    backend.create_sandbox(limited()).await.unwrap().destroy().await.unwrap();
    until(|| Inventory::take().views == 0).await;
    Inventory::take()
}

/// Waits until `done`; the time limit of the trial applies.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Wraps a backend, fails or delays on request, and counts concurrent creations.
struct Faulty {
    inner: Arc<dyn IsolationBackend>,
    broken: AtomicBool,
    slow: AtomicBool,
    create_permits: AtomicUsize,
    max: AtomicUsize,
}

impl Faulty {
    fn wrap(name: &str) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        let no = || AtomicBool::new(false);
        Arc::new(Self { inner: backend(name), broken: no(), slow: no(), create_permits: zero(), max: zero() })
    }
}

#[async_trait]
impl IsolationBackend for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn probe(&self) -> Result<BackendCapabilities, IsolationError> {
        self.inner.probe().await
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, IsolationError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(IsolationError::SandboxGone("out of order".to_owned()));
        }
        let now = self.create_permits.fetch_add(1, Ordering::SeqCst) + 1;
        self.max.fetch_max(now, Ordering::SeqCst);
        let made = self.inner.create_sandbox(spec).await;
        if self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.create_permits.fetch_sub(1, Ordering::SeqCst);
        made
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxId>, IsolationError> {
        self.inner.list_sandboxes().await
    }

    async fn get_sandbox(&self, id: &SandboxId) -> Result<Option<Arc<dyn Sandbox>>, IsolationError> {
        self.inner.get_sandbox(id).await
    }

    async fn destroy_all(&self) -> Result<(), IsolationError> {
        self.inner.destroy_all().await
    }

    async fn health_check(&self) -> Result<(), IsolationError> {
        self.inner.health_check().await
    }
}

async fn once(name: &'static str) {
    let pool = SandboxPool::new(backend(name), SandboxSpec::default(), with(3, 1)).unwrap();
    let mut seen = BTreeSet::new();
    for round in 0..12 {
        // In every other round an idle sandbox exists.
        if round % 2 == 0 {
            pool.filled().await.unwrap();
        }
        let sandbox = pool.take().await.unwrap();
        assert!(seen.insert(sandbox.id().clone()), "{} was returned twice", sandbox.id());
        assert_eq!(sh(&sandbox, ":").await.exit_code, Some(0));
        // Some are destroyed, some dropped: neither is returned again.
        if round % 3 == 0 {
            sandbox.destroy().await.unwrap();
        }
    }
    pool.drain().await.unwrap();
}

async fn files(name: &'static str) {
    let spec = SandboxSpec { home: Some("/home/agent".into()), ..SandboxSpec::default() };
    let pool = SandboxPool::new(backend(name), spec, with(2, 1)).unwrap();
    for _ in 0..6 {
        pool.filled().await.unwrap();
        let sandbox = pool.take().await.unwrap();
        let places = "/tmp /dev/shm /var/tmp /home/agent";
        assert_eq!(out(&sh(&sandbox, &format!("find {places} -name 'mark-*'")).await), "");
        let write = format!("for place in {places}; do echo mine > $place/mark-1; done; find {places} -name 'mark-*'");
        assert_eq!(out(&sh(&sandbox, &write).await).lines().count(), 4);
        sandbox.destroy().await.unwrap();
    }
    pool.drain().await.unwrap();
}

async fn burst(name: &'static str) {
    let backend = Faulty::wrap(name);
    let pool = Arc::new(SandboxPool::new(backend.clone(), SandboxSpec::default(), with(2, 3)).unwrap());
    pool.filled().await.unwrap();
    let takers: Vec<_> = (0..16)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let sandbox = pool.take().await.unwrap();
                assert_eq!(sh(&sandbox, &format!("exit {number}")).await.exit_code, Some(number));
                sandbox
            })
        })
        .collect();
    let mut given = Vec::new();
    for taker in takers {
        given.push(taker.await.unwrap());
    }
    assert_eq!(given.iter().map(|sandbox| sandbox.id()).collect::<BTreeSet<_>>().len(), 16);
    // The number of concurrent creations is limited.
    assert_eq!(backend.max.load(Ordering::SeqCst), 3);
    for sandbox in given {
        sandbox.destroy().await.unwrap();
    }
    pool.drain().await.unwrap();
}

async fn dead(name: &'static str) {
    let backend = backend(name);
    let before = settled(&backend).await;
    let pool = SandboxPool::new(backend.clone(), SandboxSpec::default(), with(1, 1)).unwrap();
    pool.filled().await.unwrap();
    let idle = backend.list_sandboxes().await.unwrap();
    let supervisors: Vec<i32> = Inventory::take().processes.difference(&before.processes).copied().collect();
    let [supervisor] = supervisors[..] else { panic!("expected one new process: {supervisors:?}") };
    let pid = Pid::from_raw(supervisor).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    // The kernel has ended all threads of the supervisor; the task that notices this has not run yet.
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
    let sandbox = pool.take().await.unwrap();
    assert!(!idle.contains(sandbox.id()));
    assert_eq!(sh(&sandbox, ":").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
    pool.filled().await.unwrap();
    // The dead supervisor is reaped.
    until(|| !fs::exists(format!("/proc/{supervisor}")).unwrap()).await;
    pool.drain().await.unwrap();
    assert!(Inventory::take().processes.is_subset(&before.processes));
}

async fn aged(name: &'static str) {
    let backend = backend(name);
    let limits = PoolLimits { max_age: Duration::from_secs(1), ..with(2, 1) };
    let pool = SandboxPool::new(backend.clone(), SandboxSpec::default(), limits).unwrap();
    pool.filled().await.unwrap();
    let first: BTreeSet<_> = backend.list_sandboxes().await.unwrap().into_iter().collect();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        pool.filled().await.unwrap();
        let now: BTreeSet<_> = backend.list_sandboxes().await.unwrap().into_iter().collect();
        if first.is_disjoint(&now) {
            break;
        }
    }
    let sandbox = pool.take().await.unwrap();
    assert!(!first.contains(sandbox.id()));
    sandbox.destroy().await.unwrap();
    pool.drain().await.unwrap();
}

async fn drained(name: &'static str) {
    let faulty = Faulty::wrap(name);
    let backend: Arc<dyn IsolationBackend> = faulty.clone();
    let before = settled(&backend).await;
    let more = || Inventory::take().processes.difference(&before.processes).count();
    // Drain immediately, when the pool is full, and while it refills.
    for round in 0..9 {
        let pool = SandboxPool::new(backend.clone(), limited(), with(4, 2)).unwrap();
        if round % 3 > 0 {
            pool.filled().await.unwrap();
            assert!(more() >= 4);
            assert_eq!(Inventory::take().groups.is_subset(&before.groups), limited().limits.memory.is_none());
        }
        if round % 3 == 2 {
            faulty.slow.store(true, Ordering::SeqCst);
            pool.take().await.unwrap().destroy().await.unwrap();
            // A creation is in progress.
            until(|| faulty.create_permits.load(Ordering::SeqCst) > 0 && more() >= 4).await;
        }
        pool.drain().await.unwrap();
        // Nothing remains, except for descriptors that the runtime closes when it polls their tasks, and mounts that the launcher
        // releases after it has reported the end.
        let after = Inventory { descriptors: before.descriptors, views: before.views, ..Inventory::take() };
        assert!(after.adds_nothing_to(&before), "left behind: {after:?}; before: {before:?}");
        until(|| Inventory::take().adds_nothing_to(&before)).await;
        assert!(matches!(pool.take().await, Err(IsolationError::PoolDrained)));
        assert!(matches!(pool.filled().await, Err(IsolationError::PoolDrained)));
        pool.drain().await.unwrap();
        faulty.slow.store(false, Ordering::SeqCst);
    }
    assert!(backend.list_sandboxes().await.unwrap().is_empty());
}

async fn dropped(name: &'static str) {
    let backend = backend(name);
    let before = settled(&backend).await;
    for round in 0..12 {
        let pool = SandboxPool::new(backend.clone(), limited(), with(3, 2)).unwrap();
        match round % 3 {
            0 => pool.filled().await.unwrap(),
            // While a sandbox is being created: a cancelled take, and the refill task.
            1 => {
                tokio::select! {
                    biased;
                    _ = pool.take() => {}
                    () = tokio::time::sleep(Duration::from_micros(400 * round)) => {}
                }
            }
            _ => {}
        }
        drop(pool);
    }
    until(|| Inventory::take().adds_nothing_to(&before)).await;
    // No sandbox of a dropped pool remains.
    assert!(backend.list_sandboxes().await.unwrap().is_empty());
}

async fn failing() {
    let backend = Faulty::wrap("linux-native");
    let out_of_order = |error: &IsolationError| error.to_string().contains("out of order");
    backend.broken.store(true, Ordering::SeqCst);
    let pool = SandboxPool::new(backend.clone(), SandboxSpec::default(), with(2, 1)).unwrap();
    assert!(pool.filled().await.is_err_and(|error| out_of_order(&error)));
    for _ in 0..3 {
        assert!(pool.take().await.is_err_and(|error| out_of_order(&error)));
    }
    // The pool retries by itself.
    backend.broken.store(false, Ordering::SeqCst);
    while pool.filled().await.is_err() {}
    // Idle sandboxes are still returned after a failure; then take returns the error again.
    backend.broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        pool.take().await.unwrap().destroy().await.unwrap();
    }
    assert!(pool.take().await.is_err_and(|error| out_of_order(&error)));
    // A take also retries the creation.
    backend.broken.store(false, Ordering::SeqCst);
    let sandbox = pool.take().await.unwrap();
    assert_eq!(sh(&sandbox, ":").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
    while pool.filled().await.is_err() {}
    pool.drain().await.unwrap();
}

async fn refused() {
    let disk = Writable::KeptLayers(DiskLayers { lower: Vec::new(), upper: "/var/tmp/top".into() });
    let spec = SandboxSpec { writable: disk, ..SandboxSpec::default() };
    let refused = SandboxPool::new(backend("container"), spec, PoolLimits::default());
    assert!(refused.is_err_and(|error| error.to_string().contains("keep their changes in memory")));
    let limits = PoolLimits { max_age: Duration::ZERO, ..PoolLimits::default() };
    assert!(SandboxPool::new(backend("container"), SandboxSpec::default(), limits).is_err());
    let outside = std::thread::spawn(|| SandboxPool::new(backend("container"), SandboxSpec::default(), PoolLimits::default()));
    assert!(outside.join().unwrap().is_err_and(|error| error.to_string().contains("outside of a tokio runtime")));
}

async fn counted(name: &'static str) {
    let metrics = Arc::<Metrics>::default();
    let measured = tracing_subscriber::registry().with(measured_layer(metrics.clone(), None));
    let _measured = tracing::subscriber::set_default(measured);
    // The pool is not refilled between the two takes.
    let limits = PoolLimits { refill_delay: Duration::from_secs(3600), ..with(1, 1) };
    let pool = SandboxPool::new(backend(name), SandboxSpec::default(), limits).unwrap();
    pool.filled().await.unwrap();
    for _ in 0..2 {
        pool.take().await.unwrap().destroy().await.unwrap();
    }
    pool.drain().await.unwrap();
    let text = metrics.text();
    for result in ["hit", "miss"] {
        assert!(text.contains(&format!("agentd_pool_takes_total{{result=\"{result}\"}} 1\n")), "{text}");
    }
}
