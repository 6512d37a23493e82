//! The warm pool: a used sandbox is never given to another, and nothing of the unused ones is left.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use agentd_isolation::{
    BackendCapabilities, DiskLayers, IsolationBackend, IsolationError, PoolLimits, Sandbox, SandboxId, SandboxPool, SandboxSpec,
    Writable,
};
use async_trait::async_trait;
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Signal, kill_process};
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
    out, sh, trial,
};

/// Those whose sandboxes have files and processes of their own.
const FENCED: [&str; 2] = ["linux-native", "container"];

fn main() {
    agentd_isolation::take_role();
    let mut arguments = Arguments::from_args();
    // They count what is there, so they take turns.
    arguments.test_threads = Some(1);
    let mut trials = vec![
        trial("a_failing_backend_fails_its_takers_and_is_tried_again".to_owned(), failing),
        trial("what_no_pool_can_have_is_refused".to_owned(), refused),
    ];
    for name in ["host-direct", "linux-native", "container"] {
        trials.push(of(name, "nobody_gets_a_sandbox_that_another_had", once));
        trials.push(of(name, "more_takers_than_spares_all_get_one", burst));
        trials.push(of(name, "a_drained_pool_leaves_nothing_and_gives_nothing", drained));
        trials.push(of(name, "a_dropped_pool_leaves_nothing", dropped));
    }
    for name in FENCED {
        trials.push(of(name, "a_file_of_one_taker_is_in_no_later_sandbox", files));
        trials.push(of(name, "a_dead_spare_is_not_given_out", dead));
        trials.push(of(name, "a_spare_that_is_too_old_is_replaced", aged));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn of<F: Future<Output = ()> + 'static>(backend: &'static str, name: &str, test: fn(&'static str) -> F) -> Trial {
    trial(format!("{backend}::{name}"), move || test(backend))
}

fn with(spare: usize, making: usize) -> PoolLimits {
    PoolLimits { spare, making: NonZeroUsize::new(making).unwrap(), ..PoolLimits::default() }
}

/// A spec with limits, for which there is a control group where this user may make one.
fn limited() -> SandboxSpec {
    SandboxSpec { limits: limits(), ..SandboxSpec::default() }
}

/// What is there when the launcher and its groups have been used once.
async fn settled(backend: &Arc<dyn IsolationBackend>) -> Inventory {
    backend.create_sandbox(limited()).await.unwrap().destroy().await.unwrap();
    until(|| Inventory::take().views == 0).await;
    Inventory::take()
}

/// Waits until `done`; the trial's patience ends it.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The wrapped backend, broken or slow on order, and counting what is in the making.
struct Faulty {
    inner: Arc<dyn IsolationBackend>,
    broken: AtomicBool,
    slow: AtomicBool,
    making: AtomicUsize,
    most: AtomicUsize,
}

impl Faulty {
    fn of(name: &str) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        let no = || AtomicBool::new(false);
        Arc::new(Self { inner: backend(name), broken: no(), slow: no(), making: zero(), most: zero() })
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
            return Err(IsolationError::Lost("out of order".to_owned()));
        }
        let now = self.making.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let made = self.inner.create_sandbox(spec).await;
        if self.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.making.fetch_sub(1, Ordering::SeqCst);
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
        // Every other one may be a spare.
        if round % 2 == 0 {
            pool.filled().await.unwrap();
        }
        let sandbox = pool.take().await.unwrap();
        assert!(seen.insert(sandbox.id().clone()), "{} was given twice", sandbox.id());
        assert_eq!(sh(&sandbox, ":").await.exit_code, Some(0));
        // Some are destroyed, some dropped: neither comes back.
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
    let backend = Faulty::of(name);
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
    // They wanted more at once, and got as many as may be.
    assert_eq!(backend.most.load(Ordering::SeqCst), 3);
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
    let spare = backend.list_sandboxes().await.unwrap();
    let supervisors: Vec<i32> = Inventory::take().processes.difference(&before.processes).copied().collect();
    let [supervisor] = supervisors[..] else { panic!("one process more: {supervisors:?}") };
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    // The kernel has ended it; this program's own task that hears of it has had no time to run.
    while fs::read_to_string(format!("/proc/{supervisor}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::yield_now();
    }
    let sandbox = pool.take().await.unwrap();
    assert!(!spare.contains(sandbox.id()));
    assert_eq!(sh(&sandbox, ":").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
    pool.filled().await.unwrap();
    // What was left of the dead one has been seen to.
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
    let faulty = Faulty::of(name);
    let backend: Arc<dyn IsolationBackend> = faulty.clone();
    let before = settled(&backend).await;
    let more = || Inventory::take().processes.difference(&before.processes).count();
    // At once, when it is full, and while it fills up again.
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
            // One is made, and the pool has not got it yet.
            until(|| faulty.making.load(Ordering::SeqCst) > 0 && more() >= 4).await;
        }
        pool.drain().await.unwrap();
        // At once; but for this program's own ends of channels, which the runtime closes when it comes to their tasks, and mounts that the
        // launcher drops after it has told the end.
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
            // In the middle of making: a take that is given up, and the keeper.
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
    // The next sandbox is none of theirs.
    assert!(backend.list_sandboxes().await.unwrap().is_empty());
}

async fn failing() {
    let backend = Faulty::of("linux-native");
    let out_of_order = |error: &IsolationError| error.to_string().contains("out of order");
    backend.broken.store(true, Ordering::SeqCst);
    let pool = SandboxPool::new(backend.clone(), SandboxSpec::default(), with(2, 1)).unwrap();
    assert!(pool.filled().await.is_err_and(|error| out_of_order(&error)));
    for _ in 0..3 {
        assert!(pool.take().await.is_err_and(|error| out_of_order(&error)));
    }
    // Of itself, after a while.
    backend.broken.store(false, Ordering::SeqCst);
    while pool.filled().await.is_err() {}
    // Spares outlast a failure, and then it is told again.
    backend.broken.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        pool.take().await.unwrap().destroy().await.unwrap();
    }
    assert!(pool.take().await.is_err_and(|error| out_of_order(&error)));
    // By a taker's luck.
    backend.broken.store(false, Ordering::SeqCst);
    let sandbox = pool.take().await.unwrap();
    assert_eq!(sh(&sandbox, ":").await.exit_code, Some(0));
    sandbox.destroy().await.unwrap();
    while pool.filled().await.is_err() {}
    pool.drain().await.unwrap();
}

async fn refused() {
    let disk = Writable::Disk(DiskLayers { sealed: Vec::new(), top: "/var/tmp/top".into() });
    let spec = SandboxSpec { writable: disk, ..SandboxSpec::default() };
    let refused = SandboxPool::new(backend("container"), spec, PoolLimits::default());
    assert!(refused.is_err_and(|error| error.to_string().contains("belongs to one sandbox")));
    let limits = PoolLimits { max_age: Duration::ZERO, ..PoolLimits::default() };
    assert!(SandboxPool::new(backend("container"), SandboxSpec::default(), limits).is_err());
    let outside = std::thread::spawn(|| SandboxPool::new(backend("container"), SandboxSpec::default(), PoolLimits::default()));
    assert!(outside.join().unwrap().is_err_and(|error| error.to_string().contains("in a tokio runtime")));
}
