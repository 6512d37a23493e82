//! Watches the limits whose counters the kernel keeps per cgroup.

use crate::{connection::SupervisorConnection, ready};
use agentd_core::EndReason;
use agentd_kernel::cgroup::{GroupUsage, WatchKind};
use std::{future::pending, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// The interval at which counters are read after an event. The kernel reports an out-of-memory condition before it kills a
/// process.
const RECHECK: Duration = Duration::from_millis(5);

/// The interval at which a counter is read if the kernel sends no events for it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until a counter of the sandbox's cgroup exceeds a limit, and returns the reason for ending the exec.
pub(super) async fn limit_exceeded(
    connection: Arc<SupervisorConnection>,
    baseline: GroupUsage,
    cpu_time: Option<Duration>,
) -> EndReason {
    let cpu = async {
        match cpu_time {
            Some(limit) => cpu_time_over(&connection, baseline, limit).await,
            None => pending().await,
        }
    };
    tokio::select! {
        reason = counter_moved(&connection, baseline) => reason,
        reason = cpu => reason,
    }
}

/// Waits until the cgroup has used `limit` of CPU time. Between checks, sleeps for the remaining CPU time divided by the number
/// of processors, at least [`RECHECK`].
async fn cpu_time_over(connection: &SupervisorConnection, baseline: GroupUsage, limit: Duration) -> EndReason {
    let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    loop {
        let (Some(now), Some(before)) = (GroupUsage::read(&connection.watches).cpu, baseline.cpu) else { return pending().await };
        let left = limit.saturating_sub(now.saturating_sub(before));
        if left.is_zero() {
            return EndReason::CpuLimit;
        }
        tokio::time::sleep((left / processors).max(RECHECK)).await;
    }
}

async fn counter_moved(connection: &SupervisorConnection, baseline: GroupUsage) -> EndReason {
    let over = || {
        let now = GroupUsage::read(&connection.watches);
        if now.oom_kills > baseline.oom_kills {
            Some(EndReason::OutOfMemory)
        } else if now.pids_hits > baseline.pids_hits {
            Some(EndReason::ProcessLimit)
        } else {
            None
        }
    };
    let mut silent = connection.watches.iter().any(|watch| watch.kind == WatchKind::SilentPidsEvents);
    let mut source = |wanted: WatchKind, interest: Interest| {
        let watch = connection.watches.iter().find(|watch| watch.kind == wanted)?;
        // Each exec registers a duplicate, because a descriptor can be registered only once. If registration fails, the counter
        // is polled like one without events.
        let registered = watch.fd.try_clone().and_then(|fd| ready::owned(fd, interest));
        silent |= registered.is_err();
        Some((registered.ok()?, interest))
    };
    let memory = source(WatchKind::OomEvent, Interest::READABLE).or_else(|| source(WatchKind::MemoryEvents, Interest::PRIORITY));
    let processes = source(WatchKind::PidsEvents, Interest::PRIORITY);
    if memory.is_none() && processes.is_none() && !silent {
        return pending().await;
    }
    let mut recheck = silent.then_some(POLL_INTERVAL);
    loop {
        if let Some(reason) = over() {
            return reason;
        }
        tokio::select! {
            () = moved(memory.as_ref()) => recheck = Some(RECHECK),
            () = moved(processes.as_ref()) => recheck = Some(RECHECK),
            () = tokio::time::sleep(recheck.unwrap_or(POLL_INTERVAL)), if recheck.is_some() => {}
        }
    }
}

/// Waits until the kernel sends an event. Never completes without a source of events.
async fn moved(source: Option<&(AsyncFd<OwnedFd>, Interest)>) {
    if let Some((fd, interest)) = source
        && let Ok(mut guard) = fd.ready(*interest).await
    {
        guard.clear_ready();
        return;
    }
    pending().await
}
