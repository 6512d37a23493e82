//! Runs the test suites of known projects outside and inside `agentd run`, compares the results, and prints the ratio of the wall
//! times. Fetches the projects with the package managers of this host, over the network; the suites run without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

mod projects;

use projects::Project;
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The places in which a suite runs: outside, and in each backend that shares the host's kernel.
const PLACES: [&str; 3] = ["outside", "linux-native", "container"];
/// The number of runs in each place. The places alternate, so that load on the machine affects all of them.
const ROUNDS: usize = 3;

/// Projects run one after another, because concurrent runs would affect the times.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn rust_crate_suite_has_same_result_inside() {
    compare(&projects::RUST);
}

#[test]
fn python_package_suite_has_same_result_inside() {
    compare(&projects::PYTHON);
}

#[test]
fn node_package_suite_has_same_result_inside() {
    compare(&projects::NODE);
}

#[test]
fn c_library_suite_has_same_result_inside() {
    compare(&projects::C);
}

/// One run of a suite.
struct Run {
    output: Output,
    results: Vec<String>,
    time: Duration,
}

/// A fetched project and a home, below one temporary directory.
struct Site {
    folder: TempDir,
    path: String,
    toolchain: PathBuf,
}

impl Site {
    fn fetch(project: &Project) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["fetched", "home"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let output = bash(project.fetch).current_dir(folder.path().join("fetched")).output().unwrap();
        assert!(output.status.success(), "fetch {}: {output:?}", project.name);
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
        let toolchain = PathBuf::from(String::from_utf8(sysroot.stdout).unwrap().trim());
        let path = format!("{}/bin:/usr/local/bin:/usr/bin:/bin", toolchain.display());
        Self { folder, path, toolchain }
    }

    /// Runs the suite in a fresh copy of the project.
    fn run(&self, project: &Project, place: &str) -> Run {
        let copy = tempfile::tempdir_in(self.folder.path()).unwrap();
        let copied = Command::new("cp").arg("-aT").arg(self.folder.path().join("fetched/project")).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let suite = format!("export PATH={}\n{}", self.path, project.suite);
        let mut command = match place {
            "outside" => bash(&suite),
            backend => self.agentd(backend, copy.path(), &suite),
        };
        command.env_clear().env("HOME", self.folder.path().join("home")).env("PATH", &self.path).env("TMPDIR", "/tmp");
        command.current_dir(copy.path()).stdin(Stdio::null());
        let start = Instant::now();
        let output = command.output().unwrap();
        let time = start.elapsed();
        let results = project.results(&output, &copy.path().canonicalize().unwrap());
        Run { output, results, time }
    }

    fn agentd(&self, backend: &str, workspace: &Path, suite: &str) -> Command {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let mut command = Command::new(program);
        command.args(["run", "--backend", backend, "--workspace"]).arg(workspace).arg("--ro").arg(&self.toolchain);
        command.args(["--", "bash", "-euo", "pipefail", "-c", suite]);
        command
    }
}

/// Runs the project's suite in each place and compares the results. Prints the times, uncaptured by the test harness.
#[track_caller]
fn compare(project: &Project) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let site = Site::fetch(project);
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut expected = None;
    for _ in 0..ROUNDS {
        for place in PLACES {
            let Run { output, results, time } = site.run(project, place);
            assert!(output.status.success() && !results.is_empty(), "{} {place}: {output:?}", project.name);
            let expected = expected.get_or_insert_with(|| results.clone());
            assert_eq!(&results, expected, "{} {place}", project.name);
            times.entry(place).or_default().push(time);
        }
    }
    let median = |place: &str| {
        let mut times = times[place].clone();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let outside = median("outside");
    for place in PLACES {
        let (count, inside) = (expected.as_ref().map_or(0, Vec::len), median(place));
        let line = format!("{:24} {place:12} {count:4} results {inside:7.2} s {:5.2} x\n", project.name, inside / outside);
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

fn bash(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]);
    command
}
