//! The command line of `cargo xtask`.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Runs the tasks of this project.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
pub struct Args {
    /// The task.
    #[command(subcommand)]
    pub task: Task,
}

/// A task.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Run a command in a virtual machine; exit with its exit code (125: the lab itself failed)
    Lab(Lab),
    /// Run the tests; `./test` installs the required packages and then runs this task
    Test(Test),
    /// Print the test matrix: suite, machine, user, backends, runs and reason of each row
    Matrix(Matrix),
}

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Run every row of the matrix, not only the rows of this commit's turn
    #[arg(long)]
    pub all: bool,
    /// End the run after this time: steps that have not ended are stopped and listed, and do not fail the run
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub limit: Option<u64>,
    /// Folder for the logs of the steps
    #[arg(long, value_name = "FOLDER", default_value = "target/test-logs")]
    pub logs: PathBuf,
    /// Rows, or suites (in every row that has the suite and does not rotate); default: the rows of this commit's turn
    #[arg(value_name = "SUITE")]
    pub names: Vec<String>,
}

/// The options of `matrix`.
#[derive(Debug, clap::Args)]
pub struct Matrix {
    /// Add one to `.ci/rotation`; do this once for each merge to main, so that five merges run every row
    #[arg(long)]
    pub advance: bool,
}

/// The options of `lab`: the machine, and the command to run in it.
#[derive(Debug, clap::Args)]
pub struct Lab {
    /// Version of Debian's cloud kernel
    #[arg(long, value_enum, default_value = "6.12")]
    pub kernel: KernelSeries,
    /// Run the command as an ordinary user with a delegated control group
    #[arg(long)]
    pub user: bool,
    /// Memory of the machine, in MiB
    #[arg(long, default_value_t = 3072)]
    pub memory: u32,
    /// Processors of the machine
    #[arg(long, default_value_t = 2)]
    pub cpus: u32,
    /// File or folder to show read-only in /lab, under its own name
    #[arg(long, value_name = "PATH")]
    pub bring: Vec<PathBuf>,
    /// Provide Firecracker and its jailer in /lab/bin (in PATH), and the kernel of the machine as /lab/vmlinux
    #[arg(long)]
    pub firecracker: bool,
    /// Environment variable for the command
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// File or folder to copy out of the machine after the command has ended
    #[arg(long, value_name = "PATH")]
    pub copy_out: Vec<PathBuf>,
    /// Folder on this host for the files of --copy-out
    #[arg(long, value_name = "FOLDER", default_value = "target/lab/out")]
    pub into: PathBuf,
    /// Time limit of the machine, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Command and arguments; `shell` alone starts a shell on the console of the machine
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// A version line of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KernelSeries {
    /// Debian 12: Landlock ABI 2, no id-mapped tmpfs.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13, from Debian 12's security archive.
    #[value(name = "6.12")]
    V6_12,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
