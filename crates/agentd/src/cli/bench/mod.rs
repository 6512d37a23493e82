//! `agentd bench`: this machine's figures, each as a ratio to `posix_spawn` of the same program in the same round.
//!
//! The rows of a warm pool are what a taker waits for: `take`, one exec, and `destroy` until no process and no group is left of it. The pool has its
//! spares when the clock starts, and is given the time to make the next one when it has stopped, before any other row is measured: that
//! is the meaning of *warm*. Who takes faster than sandboxes can be made pays for making them, as the rows of `create` say. A restore of
//! Firecracker's is given the time to start the next spare Firecracker, too.

mod firecracker;
mod gondolin;
mod peers;

use super::{Failure, args::BenchArgs, terminal::Progress};
use agentd_core::{Command, IsolationBackend, Sandbox, SandboxSpec};
use agentd_isolation::{ContainerBackend, LinuxNativeBackend, PoolLimits, SandboxPool};
use firecracker::Bare;
use gondolin::{Alone, Machines};
use peers::Peer;
use std::{
    path::{Path, PathBuf},
    process::{Command as Spawn, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const PROGRAM: &str = "/bin/true";

/// Two rows that are compared with each other.
const RESTORE: &str = "firecracker: restore + first exec";
const BARE: &str = "Firecracker alone: snapshot/load + round trip";

/// An exec in a machine of Gondolin's: by our agent, and in the ways that Gondolin itself has.
const GONDOLIN: [&str; 3] =
    ["gondolin: exec in a live machine", "Gondolin alone: exec by its session socket", "Gondolin alone: exec by its SDK"];

/// What a row measures.
enum Row {
    Spawn,
    Exec(Arc<dyn Sandbox>),
    Cold(Arc<dyn IsolationBackend>),
    Warm(Arc<SandboxPool>),
    Program(Vec<String>),
    /// In one of the ways that Gondolin itself has.
    Alone(Arc<Alone>, &'static str),
    /// Until the first exec has ended in a new one, that starts from one which has booted.
    First(Arc<dyn IsolationBackend>),
    /// Until the first exec has ended in one that goes back to what was saved of it.
    Restore(Arc<dyn Sandbox>),
    /// Firecracker alone, loading what its machines go on from.
    Bare(Arc<Bare>),
}

struct Figure {
    name: String,
    row: Row,
    samples: Vec<Duration>,
}

/// Measures all rows in turn, round by round, and prints their medians.
pub(crate) async fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let progress = Progress::of("measuring");
    let scratch = Scratch::make()?;
    let backend: Arc<dyn IsolationBackend> = LinuxNativeBackend::new(&scratch.0);
    let live = backend.create_sandbox(SandboxSpec::default()).await?;
    let pool = warm_pool(backend.clone()).await?;
    let own = std::env::current_exe()?.display().to_string();
    let whole = [own.as_str(), "run", "--backend", LinuxNativeBackend::NAME, "--workspace", "none", "--", PROGRAM]
        .map(str::to_owned)
        .to_vec();
    let mut figures = vec![
        figure("posix_spawn + wait", Row::Spawn),
        figure("linux-native: exec in a live sandbox", Row::Exec(live.clone())),
        figure("linux-native: create + exec + destroy", Row::Cold(backend.clone())),
        figure("linux-native: take + exec + destroy, warm pool", Row::Warm(pool.clone())),
        figure("agentd run, whole process", Row::Program(whole)),
    ];
    let container: Arc<dyn IsolationBackend> = ContainerBackend::new(&scratch.0);
    let mut pools = vec![pool];
    // As a peer: where it cannot be made, it has no row.
    let live_container = match container.create_sandbox(SandboxSpec::default()).await {
        Ok(live) => {
            let pool = warm_pool(container.clone()).await?;
            figures.push(figure("container: exec in a live sandbox", Row::Exec(live.clone())));
            figures.push(figure("container: create + exec + destroy", Row::Cold(container)));
            figures.push(figure("container: take + exec + destroy, warm pool", Row::Warm(pool.clone())));
            pools.push(pool);
            Some(live)
        }
        Err(error) => {
            eprintln!("agentd: not measured: container: {error}");
            None
        }
    };
    let machines = Machines::start(&scratch.0).await?;
    if let Some(machines) = &machines {
        figures.push(figure(GONDOLIN[0], Row::Exec(machines.sandbox.clone())));
        figures.push(figure(GONDOLIN[1], Row::Alone(machines.alone.clone(), "session")));
        figures.push(figure(GONDOLIN[2], Row::Alone(machines.alone.clone(), "sdk")));
    }
    let microvms = firecracker::Machines::start(&scratch.0).await?;
    if let Some(firecracker::Machines { backend, live, saved, bare }) = &microvms {
        figures.push(figure("firecracker: exec in a live machine", Row::Exec(live.clone())));
        figures.push(figure("firecracker: create + first exec", Row::First(backend.clone())));
        figures.push(figure(RESTORE, Row::Restore(saved.clone())));
        figures.push(figure(BARE, Row::Bare(bare.clone())));
    }
    for Peer { name, line } in peers::installed(&scratch.0, PROGRAM)? {
        // One that does not run here (it may want privileges, or another kernel) has no row.
        match try_out(&line) {
            Ok(()) => figures.push(figure(name, Row::Program(line))),
            Err(error) => eprintln!("agentd: not measured: {name}: {error}"),
        }
    }
    let mut order: Vec<usize> = (0..figures.len()).collect();
    let mut dice = 1u64;
    for round in 0..=args.rounds {
        // Namespaces are torn down some milliseconds after their end: in a changing order, each row pays for each other in turn.
        shuffle(&mut order, &mut dice);
        for figure in &order {
            let took = measure(&figures[*figure].row).await?;
            // The first round warms up.
            if round > 0 {
                figures[*figure].samples.push(took);
            }
        }
    }
    let live_machines = microvms.map_or_else(Vec::new, |microvms| vec![microvms.live, microvms.saved]);
    for sandbox in [Some(live), live_container].into_iter().flatten().chain(live_machines) {
        sandbox.destroy().await?;
    }
    for pool in pools {
        pool.drain().await?;
    }
    let memory = machines.as_ref().map(|machines| machines.memory);
    if let Some(machines) = machines {
        machines.destroy().await?;
    }
    drop(progress);
    let base = median(&mut figures[0].samples);
    let rows: Vec<_> = figures.iter_mut().map(|f| (f.name.clone(), median(&mut f.samples))).collect();
    let row = |name: &str| rows.iter().find_map(|(row, p50)| (row == name).then_some(*p50));
    let gondolin = match GONDOLIN.map(row) {
        [Some(exec), Some(session), Some(sdk)] => Some([exec, session, sdk]),
        _ => None,
    };
    let restore = row(RESTORE).zip(row(BARE)).map(|(restore, bare)| ratio(restore, bare));
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, p50)| serde_json::json!({ "name": name, "p50_us": p50.as_micros() as f64, "ratio": ratio(*p50, base) }))
            .collect();
        let all = serde_json::json!({
            "rounds": args.rounds, "rows": rows, "gondolin_memory_bytes": memory, "firecracker_restore_ratio": restore
        });
        writeln!(out, "{all:#}")?;
    } else {
        writeln!(out, "{:<48}{:>12}{:>10}", format!("p50 of {} rounds of {PROGRAM}", args.rounds), "µs", "ratio")?;
        for (name, p50) in &rows {
            writeln!(out, "{name:<48}{:>12}{:>9.2}×", p50.as_micros(), ratio(*p50, base))?;
        }
        if let Some([exec, session, sdk]) = gondolin {
            writeln!(
                out,
                "gondolin: exec takes {:.2}× of the time by its session socket, {:.2}× of that by its SDK",
                ratio(exec, session),
                ratio(exec, sdk)
            )?;
        }
        if let Some(memory) = memory {
            writeln!(out, "gondolin: host memory of a machine that has just started: {} MiB", memory >> 20)?;
        }
        if let Some(restore) = restore {
            writeln!(out, "firecracker: restore + first exec is {restore:.2}× what Firecracker alone takes")?;
        }
    }
    Ok(0)
}

/// What peers need on disk; gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> std::io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("agentd-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is small and lies in the directory for temporary files.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Fisher and Yates' shuffle, with dice that fall alike in every run (Marsaglia's xorshift).
fn shuffle(order: &mut [usize], dice: &mut u64) {
    for last in (1..order.len()).rev() {
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        let other = usize::try_from(*dice % (last as u64 + 1)).unwrap_or(0);
        order.swap(last, other);
    }
}

fn figure(name: &str, row: Row) -> Figure {
    Figure { name: name.to_owned(), row, samples: Vec::new() }
}

async fn measure(row: &Row) -> Result<Duration, Failure> {
    let started = Instant::now();
    match row {
        Row::Spawn => spawn(&[PROGRAM.to_owned()])?,
        Row::Program(line) => spawn(line)?,
        Row::Alone(alone, way) => return alone.execute(way),
        Row::Bare(bare) => return bare.load(),
        Row::Exec(sandbox) => exec(sandbox).await?,
        Row::First(backend) => {
            let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
            exec(&sandbox).await?;
            let took = started.elapsed();
            sandbox.destroy().await?;
            return Ok(took);
        }
        Row::Restore(sandbox) => {
            sandbox.restore(firecracker::SNAPSHOT_NAME).await?;
            exec(sandbox).await?;
            let took = started.elapsed();
            tokio::time::sleep(firecracker::NEXT_SPARE).await;
            return Ok(took);
        }
        Row::Cold(backend) => {
            let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
            exec(&sandbox).await?;
            sandbox.destroy().await?;
        }
        Row::Warm(pool) => {
            let sandbox = pool.take().await?;
            exec(&sandbox).await?;
            sandbox.destroy().await?;
            let took = started.elapsed();
            pool.filled().await?;
            return Ok(took);
        }
    }
    Ok(started.elapsed())
}

/// A pool that has its spares.
async fn warm_pool(backend: Arc<dyn IsolationBackend>) -> Result<Arc<SandboxPool>, Failure> {
    let pool = SandboxPool::new(backend, SandboxSpec::default(), PoolLimits::default())?;
    pool.filled().await?;
    Ok(Arc::new(pool))
}

async fn exec(sandbox: &Arc<dyn Sandbox>) -> Result<(), Failure> {
    let outcome =
        sandbox.exec(Command { argv: vec![PROGRAM.into()], cwd: Some(Path::new("/").into()), ..Command::default() }).await?;
    if outcome.exit_code == Some(0) { Ok(()) } else { Err(format!("{PROGRAM} ended as {outcome:?}").into()) }
}

fn spawn(line: &[String]) -> Result<(), Failure> {
    let status =
        Spawn::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", line.join(" ")).into()) }
}

/// Runs a peer once, to see whether it can be measured here. Its error is what it says itself.
fn try_out(line: &[String]) -> Result<(), Failure> {
    let output = Spawn::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    Err(format!("{first} ({})", output.status).into())
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(f64::EPSILON)
}
