//! When a sandbox has lived long enough.

use agentd_sandboxes::Record;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 UTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a sandbox is to be removed at `now`, if it is: its time in all is over, or nobody has used it for its idle time. `busy`: a command
/// runs in it.
pub(crate) fn over(record: &Record, busy: bool, now: u64) -> bool {
    let passed = |since: u64, ttl: Option<u64>| ttl.is_some_and(|ttl| now.saturating_sub(since) >= ttl);
    passed(record.made, record.about.total_ttl) || (!busy && passed(record.used, record.about.idle_ttl))
}
