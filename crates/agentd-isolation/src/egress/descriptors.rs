//! The file descriptors of the gateways of this process.

use agentd_core::IsolationError;
use agentd_egress::limits::FlowLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The minimum number of concurrent connections for which the descriptors of a gateway must suffice.
const FEWEST_FLOWS: usize = 16;

/// The number of descriptors that a gateway may use even if this is more than half of the remaining descriptors. The value is
/// three quarters of the usual limit of a process.
const ALWAYS_ALLOWED: usize = 768;

/// The number of descriptors that the gateways of this process have reserved.
static TAKEN: Mutex<usize> = Mutex::new(0);

/// The descriptors that one gateway may open, until the value is dropped.
#[derive(Debug)]
pub(super) struct DescriptorShare(usize);

impl Drop for DescriptorShare {
    fn drop(&mut self) {
        *taken() -= self.0;
    }
}

fn taken() -> MutexGuard<'static, usize> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the bounds of the next gateway, and reserves its descriptors. A sandbox therefore cannot use up the descriptors of
/// another sandbox or of the process itself.
///
/// # Errors
/// [`IsolationError::Invalid`] if the other gateways leave too few descriptors.
pub(super) fn reserve() -> Result<(FlowLimits, DescriptorShare), IsolationError> {
    // A quarter remains for the process itself.
    let all = getrlimit(Resource::Nofile).current.and_then(|max| usize::try_from(max / 4 * 3).ok()).unwrap_or(usize::MAX);
    let mut taken = taken();
    let limits = limits(all, *taken).ok_or_else(|| IsolationError::Invalid {
        what: "network".to_owned(),
        reason: "the gateways of other sandboxes use the file descriptors that this process may open — end one of these \
                 sandboxes, or raise the limit (`ulimit -n`)"
            .to_owned(),
    })?;
    let share = limits.descriptors();
    *taken = taken.saturating_add(share);
    Ok((limits, DescriptorShare(share)))
}

/// Returns the bounds of a gateway if all gateways may use `all` descriptors, and others use `taken` of them. Returns `None` if
/// too few descriptors are left. The first gateway always gets bounds, because a gateway checks at its start whether the limit of
/// the process suffices.
fn limits(all: usize, taken: usize) -> Option<FlowLimits> {
    let free = all.saturating_sub(taken);
    let max = (free / 2).max(free.min(ALWAYS_ALLOWED));
    let mut limits = FlowLimits::default();
    if limits.descriptors() > max {
        limits.pipes = limits.pipes.min(max / 16);
        limits.datagram_flows = limits.datagram_flows.min(max / 32);
        let fixed = FlowLimits { flows: 0, ..limits.clone() }.descriptors();
        limits.flows = (max.saturating_sub(fixed) / 2).max(FEWEST_FLOWS);
    }
    (taken == 0 || limits.descriptors() <= free).then_some(limits)
}

/// Raises the number of descriptors that this process may open, as far as permitted, so that a gateway can carry all connections
/// that its bounds allow. Starts the launcher first, so that commands keep the limits of the caller.
///
/// # Errors
/// The launcher could not be started.
pub fn raise_descriptor_limit() -> Result<(), IsolationError> {
    drop(crate::launcher::get()?);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // If this fails, a gateway carries fewer concurrent connections.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_together_never_use_more_than_all_descriptors() {
        for all in [100, ALWAYS_ALLOWED, 3 * 1024, 12 * 1024, 384 * 1024] {
            let (mut taken, mut gateways) = (0, 0);
            while let Some(limits) = limits(all, taken) {
                taken += limits.descriptors();
                gateways += 1;
                assert!(limits.flows >= FEWEST_FLOWS);
                assert!(gateways == 1 || taken <= all, "{gateways} gateways use {taken} of {all}");
            }
            assert!(gateways > 0);
        }
        assert_eq!(limits(usize::MAX, 0), Some(FlowLimits::default()));
        // With the usual limit of 1,024 open files.
        assert_eq!(limits(768, 0).map(|limits| limits.flows), Some(52));
    }
}
