//! How an intent is executed, in addition to its terms.

use super::{super::stops::StopSource, live::LiveCaller};
use agentd_server::{CallInput, SandboxReach};
use std::ffi::OsString;
use tokio::sync::mpsc;

/// How an intent is executed, in addition to its terms.
pub(in super::super) struct ExecutionOptions<'a> {
    /// The backend that the caller names.
    pub backend: Option<&'a str>,
    /// The options `--secret`. Their destinations are a part of the terms.
    pub secrets: &'a [OsString],
    /// The caller, who may read the output while it is written.
    pub caller: LiveCaller,
    /// The input of a caller of the daemon.
    pub input: Option<mpsc::Receiver<CallInput>>,
    /// Where requests to stop come from.
    pub stops: StopSource,
    /// The named sandboxes that the caller may use.
    pub reach: SandboxReach,
}
