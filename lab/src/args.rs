//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
pub struct Args {
    /// Which.
    #[command(subcommand)]
    pub task: Task,
}

/// A task.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Runs a command in a virtual machine and answers what it answered (125: the lab itself failed)
    Lab(Lab),
}

/// The machine, and what is to run in it.
#[derive(Debug, clap::Args)]
pub struct Lab {
    /// Debian's cloud kernel of this line
    #[arg(long, value_enum, default_value = "6.12")]
    pub kernel: Line,
    /// Run as an ordinary user with a delegated control group
    #[arg(long)]
    pub user: bool,
    /// Memory of the machine, in MiB
    #[arg(long, default_value_t = 3072)]
    pub memory: u32,
    /// Processors of the machine
    #[arg(long, default_value_t = 2)]
    pub cpus: u32,
    /// A file or folder that is to be found below /lab, read-only, by its own name
    #[arg(long, value_name = "PATH")]
    pub bring: Vec<PathBuf>,
    /// Firecracker and its jailer in /lab/bin, which is in PATH; the machine's kernel as /lab/vmlinux
    #[arg(long)]
    pub firecracker: bool,
    /// A variable of the command's environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// A file or folder of the machine to keep when the command has ended
    #[arg(long, value_name = "PATH")]
    pub copy_out: Vec<PathBuf>,
    /// Where what is kept goes
    #[arg(long, value_name = "FOLDER", default_value = "target/lab/out")]
    pub into: PathBuf,
    /// Seconds after which the machine is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// What to run; `shell` alone is a shell on the machine's console
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// A line of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Line {
    /// Of Debian 12: Landlock ABI 2, no id-mapped tmpfs.
    #[value(name = "6.1")]
    V6_1,
    /// Of Debian 13, as Debian 12's security archive has it.
    #[value(name = "6.12")]
    V6_12,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is wanted".to_owned()),
    }
}
