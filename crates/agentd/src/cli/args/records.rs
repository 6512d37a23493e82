//! `agentd audit`, `agentd receipt` and `agentd signing-key`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Verify every leaf and hash of the log, and its signature
    ///
    /// Exit code 0: the log is unchanged. Exit code 1: the log was changed or damaged.
    Verify {
        /// A checkpoint that you kept: the log must still have all its leaves
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        #[command(flatten)]
        log: LogArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the last leaves, verified against the signature
    Tail {
        /// Number of leaves
        #[arg(short = 'n', long, value_name = "NUMBER", default_value = "10")]
        lines: u64,
        #[command(flatten)]
        log: LogArgs,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Print the signed checkpoint; keep it where agentd's user cannot change it
    Checkpoint {
        #[command(flatten)]
        log: LogArgs,
    },
    /// Prove that the log has a leaf, or that it continues a checkpoint
    Prove {
        /// The index of the leaf
        #[arg(value_name = "INDEX", required_unless_present = "since", conflicts_with = "since")]
        index: Option<u64>,
        /// The checkpoint that the log must continue
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Verify the log and copy it, in the layout of C2SP tlog-tiles
    Export {
        /// The new directory
        #[arg(value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        log: LogArgs,
    },
}

/// The log to read, and the keys to verify it with.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Read the log in this directory, such as an export
    #[arg(long, value_name = "DIR", requires = "key")]
    pub log: Option<PathBuf>,
    /// Use the public keys in this file, as `agentd signing-key show` prints them
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Verify a receipt and print what it says
    ///
    /// Exit code 0: the receipt is good. Exit code 1: do not trust it.
    Verify {
        /// The receipt
        #[arg(value_name = "FILE")]
        receipt: PathBuf,
        /// Use the public keys in this file, as `agentd signing-key show` prints them
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SigningKeyCommand {
    /// Print the public keys that verify receipts and the audit log
    ///
    /// The first call on a machine generates a key.
    Show,
    /// Replace the signing key; the old public key stays valid for what it has signed
    Rotate,
}
