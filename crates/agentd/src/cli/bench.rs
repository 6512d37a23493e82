//! `agentd bench`: this machine's figures, each as a ratio to `posix_spawn` of the same program in the same round.

use super::{Failure, args::BenchArgs};
use agentd_core::{Command, IsolationBackend, Sandbox, SandboxSpec};
use agentd_isolation::LinuxNativeBackend;
use std::{
    path::Path,
    process::{Command as Spawn, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const PROGRAM: &str = "/bin/true";

/// What a row measures.
enum Row {
    Spawn,
    Exec(Arc<dyn Sandbox>),
    Cold(Arc<dyn IsolationBackend>),
    Program(Vec<String>),
}

struct Figure {
    name: String,
    row: Row,
    samples: Vec<Duration>,
}

/// Measures all rows in turn, round by round, and prints their medians.
pub(crate) async fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let backend: Arc<dyn IsolationBackend> = LinuxNativeBackend::new(&std::env::temp_dir());
    let live = backend.create_sandbox(SandboxSpec::default()).await?;
    let own = std::env::current_exe()?.display().to_string();
    let mut figures = vec![
        figure("posix_spawn + wait", Row::Spawn),
        figure("linux-native: exec in a live sandbox", Row::Exec(live.clone())),
        figure("linux-native: create + exec + destroy", Row::Cold(backend)),
        figure("agentd run, whole process", Row::Program(words(&format!("{own} run --workspace none -- {PROGRAM}")))),
    ];
    for (name, line) in peers() {
        if installed(&line[0]) {
            figures.push(figure(name, Row::Program(line)));
        }
    }
    for round in 0..=args.rounds {
        for figure in &mut figures {
            let took = measure(&figure.row).await?;
            // The first round warms up.
            if round > 0 {
                figure.samples.push(took);
            }
        }
    }
    live.destroy().await?;
    let base = median(&mut figures[0].samples);
    let rows: Vec<_> = figures.iter_mut().map(|f| (f.name.clone(), median(&mut f.samples))).collect();
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, p50)| serde_json::json!({ "name": name, "p50_us": p50.as_micros() as f64, "ratio": ratio(*p50, base) }))
            .collect();
        writeln!(out, "{:#}", serde_json::json!({ "rounds": args.rounds, "rows": rows }))?;
    } else {
        writeln!(out, "{:<46}{:>12}{:>10}", format!("p50 of {} rounds of {PROGRAM}", args.rounds), "µs", "ratio")?;
        for (name, p50) in rows {
            writeln!(out, "{name:<46}{:>12}{:>9.2}×", p50.as_micros(), ratio(p50, base))?;
        }
    }
    Ok(0)
}

fn figure(name: &str, row: Row) -> Figure {
    Figure { name: name.to_owned(), row, samples: Vec::new() }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Others that are measured when they are installed, with everything unshared that they can unshare.
fn peers() -> Vec<(&'static str, Vec<String>)> {
    vec![
        (
            "bwrap, everything unshared",
            words(&format!(
                "bwrap --unshare-all --die-with-parent --new-session --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp {PROGRAM}"
            )),
        ),
        (
            "unshare, everything",
            words(&format!(
                "unshare --user --map-root-user --pid --fork --mount --net --ipc --uts --cgroup --mount-proc {PROGRAM}"
            )),
        ),
    ]
}

fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

async fn measure(row: &Row) -> Result<Duration, Failure> {
    let started = Instant::now();
    match row {
        Row::Spawn => spawn(&[PROGRAM.to_owned()])?,
        Row::Program(line) => spawn(line)?,
        Row::Exec(sandbox) => exec(sandbox).await?,
        Row::Cold(backend) => {
            let sandbox = backend.create_sandbox(SandboxSpec::default()).await?;
            exec(&sandbox).await?;
            sandbox.destroy().await?;
        }
    }
    Ok(started.elapsed())
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

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64().max(f64::EPSILON)
}
