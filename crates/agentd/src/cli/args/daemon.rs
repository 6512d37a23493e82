//! `agentd daemon`.

use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Print the daemon's process id, version, age, log file and sandboxes
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop the daemon and all commands in its sandboxes; the files of the sandboxes are kept
    Stop,
    /// Print the daemon's log
    Log {
        /// Print new records until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Run as the daemon of the sandboxes in a directory
    #[command(hide = true)]
    Serve {
        /// The directory of the sandboxes
        folder: PathBuf,
        /// The directory in which the client that starts the daemon runs
        started_in: Option<PathBuf>,
    },
}
