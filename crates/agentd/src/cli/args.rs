//! The arguments.

mod gondolin;
mod run;
mod sandbox;
mod vm;

pub(crate) use gondolin::GondolinCommand;
pub(crate) use run::{BoundaryArgs, CommandArgs, NetworkArg, RunArgs};
pub(crate) use sandbox::{CreateArgs, ExecArgs, SandboxCommand};
pub(crate) use vm::{VmBuildArgs, VmCommand};

use agentd_image::Reference;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Run what an agent asks for in a sandbox that is proven.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Sub,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sub {
    /// Run a command in a sandbox
    Run(Box<RunArgs>),
    /// Keep sandboxes that live on
    #[command(subcommand)]
    Sandbox(Box<SandboxCommand>),
    /// Have the sandboxes in a folder, for those who ask
    #[command(hide = true)]
    Keeper {
        /// The folder
        folder: PathBuf,
    },
    /// Attack this machine's sandboxes from inside and show what was proven
    Doctor(DoctorArgs),
    /// Measure the sandboxes against a bare spawn and against what else is installed
    Bench(BenchArgs),
    /// Keep images for `run --image`
    #[command(subcommand)]
    Image(ImageCommand),
    /// Make what the backend firecracker starts from
    #[command(subcommand)]
    Vm(VmCommand),
    /// Install what the backend gondolin drives
    #[command(subcommand)]
    Gondolin(GondolinCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Fetch an image from its registry
    Pull {
        /// Its name there, e.g. debian:12
        reference: Reference,
    },
    /// Take in an image or a root file system that is here
    Import {
        /// An OCI layout, an archive of `docker save`, a root file system in a tar file, or a directory
        source: PathBuf,
        /// What it is to be called
        reference: Reference,
    },
    /// List the images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget images; `gc` frees what only they used
    Rm {
        /// Their names
        #[arg(required = true)]
        references: Vec<Reference>,
    },
    /// Free what no image uses
    Gc,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only this backend
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Rounds; each measures every row once
    #[arg(long, value_name = "NUMBER", default_value = "200", value_parser = clap::value_parser!(u32).range(5..=10_000))]
    pub rounds: u32,
}
