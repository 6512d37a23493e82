//! `agentd bench`: measures this machine. Each figure is a ratio to `posix_spawn` of the same program in the same round.
//!
//! The rows of a warm pool measure what a caller waits for: `take`, one exec, and `destroy` until no process and no cgroup of the
//! sandbox remains. *Warm* means that the pool has its idle sandboxes when the clock starts. After the clock has stopped, the
//! pool gets the time to create the next one before another row is measured. A caller that takes sandboxes faster than they can
//! be created also pays for creating them, as the rows of `create` show. A restore of Firecracker also gets the time to start
//! the next spare Firecracker.

mod files;
#[cfg(feature = "firecracker")]
mod firecracker;
#[cfg(feature = "gondolin")]
mod gondolin;
mod peers;
mod protected;

use super::{Failure, args::BenchArgs, terminal::Progress};
use agentd_core::{Command, IsolationBackend, Sandbox, SandboxSpec};
use agentd_disk::Scratch;
use agentd_isolation::{ContainerBackend, LinuxNativeBackend, PoolLimits, SandboxPool};
use peers::Peer;
use std::{
    path::Path,
    pin::Pin,
    process::{Command as Spawn, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const PROGRAM: &str = "/bin/true";

/// Names of two rows that are compared with each other.
const RESTORE: &str = "firecracker: restore + first exec";
const BARE: &str = "Firecracker alone: snapshot/load + round trip";

/// Names of the rows for an exec in a machine of Gondolin: by agentd's agent, and in the two ways that Gondolin provides.
const GONDOLIN: [&str; 3] =
    ["gondolin: exec in a live machine", "Gondolin alone: exec by its session socket", "Gondolin alone: exec by its SDK"];

/// The measurement of a row.
enum Row {
    Spawn,
    Exec(Arc<dyn Sandbox>),
    Cold(Arc<dyn IsolationBackend>),
    Program(Vec<String>),
    /// Measures its own time, because some of its work is not counted.
    Timed(Box<dyn Fn() -> Timed>),
}

/// A future that measures a row and yields the time that the row took.
type Timed = Pin<Box<dyn Future<Output = Result<Duration, Failure>>>>;

struct Figure {
    name: String,
    row: Row,
    samples: Vec<Duration>,
}

/// Measures all rows in turn, round by round, and prints their medians.
pub(crate) async fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let progress = Progress::show("measuring");
    let scratch = Scratch::make(&std::env::temp_dir(), "agentd-bench").map_err(std::io::Error::other)?;
    let backend: Arc<dyn IsolationBackend> = Arc::new(LinuxNativeBackend::new(scratch.path())?);
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
        figure("linux-native: take + exec + destroy, warm pool", warm(pool.clone())),
        figure("agentd run, whole process", Row::Program(whole)),
    ];
    let container: Arc<dyn IsolationBackend> = Arc::new(ContainerBackend::new(scratch.path(), None)?);
    let mut pools = vec![pool];
    // A comparison only: without the container backend, its rows are left out.
    let live_container = match container.create_sandbox(SandboxSpec::default()).await {
        Ok(live) => {
            let pool = warm_pool(container.clone()).await?;
            figures.push(figure("container: exec in a live sandbox", Row::Exec(live.clone())));
            figures.push(figure("container: create + exec + destroy", Row::Cold(container)));
            figures.push(figure("container: take + exec + destroy, warm pool", warm(pool.clone())));
            pools.push(pool);
            Some(live)
        }
        Err(error) => {
            eprintln!("agentd: skip the rows of container: {error}");
            None
        }
    };
    #[cfg(feature = "gondolin")]
    let (machines, memory) = gondolin::rows(scratch.path(), &mut figures).await?;
    #[cfg(not(feature = "gondolin"))]
    let (machines, memory) = (Vec::new(), None::<u64>);
    #[cfg(feature = "firecracker")]
    let microvms = firecracker::rows(scratch.path(), &mut figures).await?;
    #[cfg(not(feature = "firecracker"))]
    let microvms = Vec::new();
    for Peer { name, line } in peers::installed(scratch.path(), PROGRAM)? {
        // A peer that does not run on this machine has no row. It may need privileges, or another kernel.
        match try_out(&line) {
            Ok(()) => figures.push(figure(name, Row::Program(line))),
            Err(error) => eprintln!("agentd: skip the row of {name}: {error}"),
        }
    }
    let mut order: Vec<usize> = (0..figures.len()).collect();
    let mut dice = 1u64;
    for round in 0..=args.rounds {
        // Namespaces are torn down some milliseconds after their end. Shuffling the order spreads this cost over all rows.
        shuffle(&mut order, &mut dice);
        for figure in &order {
            let took = measure(&figures[*figure].row).await?;
            // The first round is a warm-up.
            if round > 0 {
                figures[*figure].samples.push(took);
            }
        }
    }
    let natives = std::iter::once((LinuxNativeBackend::NAME, live.clone()));
    let containers = live_container.iter().map(|sandbox| (ContainerBackend::NAME, sandbox.clone()));
    let files = files::measure(&natives.chain(containers).collect::<Vec<_>>(), args.rounds).await?;
    let protected = protected::measure(&own, LinuxNativeBackend::NAME, scratch.path(), args.rounds)?;
    for sandbox in [Some(live), live_container].into_iter().flatten().chain(microvms).chain(machines) {
        sandbox.destroy().await?;
    }
    for pool in pools {
        pool.drain().await?;
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
            "rounds": args.rounds, "rows": rows, "gondolin_memory_bytes": memory, "firecracker_restore_ratio": restore,
            "files_ratios": files.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "protected_tree": {
                "directories": protected::DIRECTORIES,
                "without_us": protected.none.as_micros() as f64,
                "first_us": protected.first.as_micros() as f64,
                "second_us": protected.second.as_micros() as f64,
            },
        });
        writeln!(out, "{all:#}")?;
    } else {
        writeln!(out, "{:<48}{:>12}{:>10}", format!("p50 of {} rounds of {PROGRAM}", args.rounds), "µs", "ratio")?;
        for (name, p50) in &rows {
            writeln!(out, "{name:<48}{:>12}{:>9.2}×", p50.as_micros(), ratio(*p50, base))?;
        }
        for (backend, ratio) in files {
            writeln!(
                out,
                "{backend}: creating, reading the status of and removing 20,000 files on tmpfs takes {ratio:.2}× the time outside"
            )?;
        }
        writeln!(
            out,
            "agentd run in a workspace of {} directories: the first run takes {:.2}×, the second {:.2}× the time without a \
             workspace",
            protected::DIRECTORIES,
            ratio(protected.first, protected.none),
            ratio(protected.second, protected.none)
        )?;
        if let Some([exec, session, sdk]) = gondolin {
            writeln!(
                out,
                "gondolin: exec takes {:.2}× the time of an exec by its session socket, {:.2}× that of its SDK",
                ratio(exec, session),
                ratio(exec, sdk)
            )?;
        }
        if let Some(memory) = memory {
            writeln!(out, "gondolin: host memory of a machine that has just started: {} MiB", memory >> 20)?;
        }
        if let Some(restore) = restore {
            writeln!(out, "firecracker: restore + first exec takes {restore:.2}× the time of Firecracker alone")?;
        }
    }
    Ok(0)
}

/// Shuffles `order` (Fisher-Yates) with a random generator that yields the same sequence in every run (Marsaglia's xorshift).
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
        Row::Timed(measure) => return measure().await,
        Row::Exec(sandbox) => exec(sandbox).await?,
        Row::Cold(backend) => {
            let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
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

async fn exec(sandbox: &Arc<dyn Sandbox>) -> Result<(), Failure> {
    let outcome =
        sandbox.exec(Command { argv: vec![PROGRAM.into()], cwd: Some(Path::new("/").into()), ..Command::default() }).await?;
    if outcome.exit_code == Some(0) {
        Ok(())
    } else {
        Err(format!("measure an exec of {PROGRAM}: it failed: {outcome:?}").into())
    }
}

fn spawn(line: &[String]) -> Result<(), Failure> {
    let status =
        Spawn::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", line.join(" ")).into()) }
}

/// Runs a peer once, to find out whether it can be measured on this machine. The error is the first line of its standard error.
fn try_out(line: &[String]) -> Result<(), Failure> {
    let output = Spawn::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no error message");
    Err(format!("{first} ({})", output.status).into())
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(f64::EPSILON)
}
