//! The time to live of sandboxes.

use agentd_sandboxes::Lifetime;
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the seconds since 1970-01-01 UTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns true if a sandbox is to be removed at `now`: its total time to live has expired, or it was unused for its idle time to
/// live. `busy` means that a command runs in it.
pub(crate) fn is_expired(lifetime: &Lifetime, busy: bool, now: u64) -> bool {
    let passed = |since: u64, ttl: Option<u64>| ttl.is_some_and(|ttl| now.saturating_sub(since) >= ttl);
    passed(lifetime.created, lifetime.total_ttl) || (!busy && passed(lifetime.used, lifetime.idle_ttl))
}
