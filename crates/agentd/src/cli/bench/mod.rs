//! `agentd bench`: measures this host. Each figure is a ratio to `posix_spawn` of the same program in the same round.
//!
//! The rows of a warm pool measure what a caller waits for: `take`, one exec, and `destroy` until no process and no cgroup of the
//! sandbox remains. *Warm* means that the pool has its idle sandboxes when the clock starts. After the clock has stopped, the
//! pool gets the time to create the next one before another row is measured. A caller that takes sandboxes faster than they can
//! be created also pays for creating them, as the rows of `create` show. A restore of Firecracker also gets the time to start
//! the next spare Firecracker.

mod abuse;
mod egress;
mod figure;
mod files;
#[cfg(feature = "firecracker")]
mod firecracker;
#[cfg(feature = "gondolin")]
mod gondolin;
mod peers;
mod protected;
mod records;
mod report;

use super::{args::BenchArgs, failure::Failure, terminal::Progress};
use agentd_core::{IsolationBackend, Network, Sandbox, SandboxSpec};
use agentd_disk::Scratch;
use agentd_isolation::{ContainerBackend, LinuxNativeBackend, PoolLimits, SandboxPool};
use figure::{Figure, PROGRAM, Row, exec, figure, median, spawn};
use peers::Peer;
use report::Measurements;
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Measures all rows in turn, round by round, and prints their medians.
pub(crate) async fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let progress = Progress::show("measuring");
    let scratch = Scratch::make(&std::env::temp_dir(), "agentd-bench").map_err(std::io::Error::other)?;
    let mut subjects = Subjects::default();
    subjects.add_native(scratch.path()).await?;
    subjects.add_container(scratch.path()).await?;
    #[cfg(feature = "gondolin")]
    subjects.add_gondolin(scratch.path()).await?;
    #[cfg(feature = "firecracker")]
    subjects.add_firecracker(scratch.path()).await?;
    subjects.add_peers(scratch.path())?;
    // Held until the row has been measured.
    let in_memory = records::row()?.map(|(row, folder)| {
        subjects.figures.push(row);
        folder
    });
    sample(&mut subjects.figures, args.rounds).await?;
    let files = files::measure(&subjects.live, args.rounds).await?;
    let leaves_per_second = records::leaves_per_second(scratch.path()).await?;
    let own = std::env::current_exe()?.display().to_string();
    let protected = protected::measure(&own, LinuxNativeBackend::NAME, scratch.path(), args.rounds)?;
    let granted = egress::measure(&subjects.backends, args.rounds).await?;
    let Subjects { figures, live, machines, pools, memory, backends: _ } = subjects;
    for sandbox in live.into_iter().map(|(_, sandbox)| sandbox).chain(machines) {
        sandbox.destroy().await?;
    }
    for pool in pools {
        pool.drain().await?;
    }
    drop(progress);
    let rows = figures.into_iter().map(|mut figure| (figure.name, median(&mut figure.samples))).collect();
    drop(in_memory);
    let report = Measurements { rounds: args.rounds, rows, files, protected, granted, leaves_per_second, memory };
    let mut out = std::io::stdout().lock();
    if args.json {
        report.print_json(&mut out)?
    } else {
        report.print(&mut out)?
    }
    Ok(0)
}

/// The rows to measure, and what they use.
#[derive(Default)]
struct Subjects {
    figures: Vec<Figure>,
    /// The backends on the host's kernel.
    backends: Vec<(&'static str, Arc<dyn IsolationBackend>)>,
    /// The live sandboxes on the host's kernel, by backend.
    live: Vec<(&'static str, Arc<dyn Sandbox>)>,
    /// The live sandboxes in machines.
    machines: Vec<Arc<dyn Sandbox>>,
    pools: Vec<Arc<SandboxPool>>,
    /// Host memory of a machine of Gondolin that has just started, in bytes.
    memory: Option<u64>,
}

impl Subjects {
    async fn add_native(&mut self, work_root: &Path) -> Result<(), Failure> {
        let backend: Arc<dyn IsolationBackend> = Arc::new(LinuxNativeBackend::new(work_root)?);
        let live = backend.create_sandbox(SandboxSpec::default()).await?;
        self.figures.push(figure("posix_spawn + wait", Row::Spawn));
        self.add_backend(LinuxNativeBackend::NAME, backend, live).await?;
        let own = std::env::current_exe()?.display().to_string();
        let whole = [own.as_str(), "run", "--backend", LinuxNativeBackend::NAME, "--workspace", "none", "--", PROGRAM]
            .map(str::to_owned)
            .to_vec();
        self.figures.push(figure("agentd run, whole process", Row::Program(whole)));
        Ok(())
    }

    /// Adds the rows of the container backend. They are a comparison only: without the backend they are left out.
    async fn add_container(&mut self, work_root: &Path) -> Result<(), Failure> {
        let backend: Arc<dyn IsolationBackend> = Arc::new(ContainerBackend::new(work_root, None)?);
        match backend.create_sandbox(SandboxSpec::default()).await {
            Ok(live) => self.add_backend(ContainerBackend::NAME, backend, live).await,
            Err(error) => {
                eprintln!("agentd: skip the rows of container: {error}");
                Ok(())
            }
        }
    }

    async fn add_backend(
        &mut self,
        name: &'static str,
        backend: Arc<dyn IsolationBackend>,
        live: Arc<dyn Sandbox>,
    ) -> Result<(), Failure> {
        let pool = warm_pool(backend.clone()).await?;
        self.figures.push(figure(&format!("{name}: exec in a live sandbox"), Row::Exec(live.clone())));
        self.figures.push(figure(&report::create(name), Row::Cold(backend.clone(), Network::Off)));
        if backend.traits().egress {
            // Nothing connects, so the host need not exist.
            let network = Network::Egress(vec!["granted.invalid".to_owned()]);
            self.figures.push(figure(&report::create_granted(name), Row::Cold(backend.clone(), network)));
        }
        self.figures.push(figure(&format!("{name}: take + exec + destroy, warm pool"), warm(pool.clone())));
        self.backends.push((name, backend));
        self.live.push((name, live));
        self.pools.push(pool);
        Ok(())
    }

    #[cfg(feature = "gondolin")]
    async fn add_gondolin(&mut self, work_root: &Path) -> Result<(), Failure> {
        let (machines, memory) = gondolin::rows(work_root, &mut self.figures).await?;
        self.machines.extend(machines);
        self.memory = memory;
        Ok(())
    }

    #[cfg(feature = "firecracker")]
    async fn add_firecracker(&mut self, work_root: &Path) -> Result<(), Failure> {
        self.machines.extend(firecracker::rows(work_root, &mut self.figures).await?);
        Ok(())
    }

    fn add_peers(&mut self, work_root: &Path) -> Result<(), Failure> {
        for Peer { name, line } in peers::installed(work_root, PROGRAM)? {
            // A peer that does not run on this host has no row. It may need privileges, or another kernel.
            match try_out(&line) {
                Ok(()) => self.figures.push(figure(name, Row::Program(line))),
                Err(error) => eprintln!("agentd: skip the row of {name}: {error}"),
            }
        }
        Ok(())
    }
}

/// Measures each figure once per round.
async fn sample(figures: &mut [Figure], rounds: u32) -> Result<(), Failure> {
    let mut order: Vec<usize> = (0..figures.len()).collect();
    let mut random = 1u64;
    for round in 0..=rounds {
        // Namespaces are torn down some milliseconds after their end. Shuffling the order spreads this cost over all rows.
        shuffle(&mut order, &mut random);
        for figure in &order {
            let took = measure(&figures[*figure].row).await?;
            // The first round is a warm-up.
            if round > 0 {
                figures[*figure].samples.push(took);
            }
        }
    }
    Ok(())
}

/// Shuffles `order` (Fisher-Yates) with a random generator that yields the same sequence in every run (Marsaglia's xorshift).
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let other = usize::try_from(*random % (last as u64 + 1)).unwrap_or(0);
        order.swap(last, other);
    }
}

async fn measure(row: &Row) -> Result<Duration, Failure> {
    let started = Instant::now();
    match row {
        Row::Spawn => spawn(&[PROGRAM.to_owned()])?,
        Row::Program(line) => spawn(line)?,
        Row::Timed(measure) => return measure().await,
        Row::Exec(sandbox) => exec(sandbox).await?,
        Row::Cold(backend, network) => {
            let spec = SandboxSpec { network: network.clone(), ..SandboxSpec::default() };
            let sandbox = backend.create_sandbox(spec).await?;
            exec(&sandbox).await?;
            sandbox.destroy().await?;
        }
    }
    Ok(started.elapsed())
}

/// Measures the time for which a caller of a warm pool waits. Creating the next idle sandbox is not counted.
fn warm(pool: Arc<SandboxPool>) -> Row {
    Row::Timed(Box::new(move || {
        let pool = pool.clone();
        Box::pin(async move {
            let started = Instant::now();
            let sandbox = pool.take().await?;
            exec(&sandbox).await?;
            sandbox.destroy().await?;
            let took = started.elapsed();
            pool.filled().await?;
            Ok(took)
        })
    }))
}

/// Creates a pool and waits until it is filled.
async fn warm_pool(backend: Arc<dyn IsolationBackend>) -> Result<Arc<SandboxPool>, Failure> {
    let pool = SandboxPool::new(backend, SandboxSpec::default(), PoolLimits::default())?;
    pool.filled().await?;
    Ok(Arc::new(pool))
}

/// Runs a peer once, to find out whether it can be measured on this host. The error is the first line of its standard error.
fn try_out(line: &[String]) -> Result<(), Failure> {
    let output = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no error message");
    Err(format!("{first} ({})", output.status).into())
}
