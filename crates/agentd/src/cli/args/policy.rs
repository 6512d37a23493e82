//! `agentd policy`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Validate policies, without a request
    ///
    /// Exit code 0: all policies are valid. Exit code 1: the policies are refused.
    Check {
        /// A policy file, or a directory of them
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Test policies with tables of requests and expected decisions
    ///
    /// Exit code 0: every decision is as expected. Exit code 1: some decision differs.
    Test {
        /// The directory of the tables, whose names end in .toml
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The policies: a file, or a directory of files [default: DIR]
        #[arg(long, value_name = "PATH")]
        policies: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain which policies decide about a request, and what would have to change
    ///
    /// Exit code 0: permitted. Exit code 1: denied, or more requested than permitted.
    Explain(ExplainArgs),
    /// Print the default policy, which holds as long as you have written none
    Default,
    /// Print the Cedar schema that policies must match, as JSON
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The request, as JSON
    #[arg(value_name = "FILE")]
    pub intent: PathBuf,
    /// The policies: a file, or a directory of files [default: those of agentd's data directory, or the default policy]
    #[arg(long, value_name = "PATH")]
    pub policies: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
