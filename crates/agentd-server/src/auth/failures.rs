//! Counts the failed authentications of each peer address, within a bounded memory.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The failures of one address within [`WINDOW`] after which its credentials are refused without an examination.
pub(super) const MAX_FAILURES: u32 = 20;

/// The time for which failures count, beginning with the first.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// The most addresses that are remembered. When there are more, the one whose window began first is forgotten.
const MAX_ADDRESSES: usize = 4096;

/// The failures of all addresses.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<Option<IpAddr>, FailureWindow>>);

#[derive(Debug, Clone, Copy)]
struct FailureWindow {
    begun: Instant,
    count: u32,
}

impl Failures {
    /// Returns the time for which an address must wait; `None` if it need not. `None` as address is the Unix socket.
    pub fn wait(&self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.get(&source(address)).filter(|window| window.count >= MAX_FAILURES)?;
        WINDOW.checked_sub(now.saturating_duration_since(window.begun)).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure. Returns the number of failures in the window of the address.
    pub fn count(&self, address: Option<IpAddr>, now: Instant) -> u32 {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let source = source(address);
        if windows.len() >= MAX_ADDRESSES && !windows.contains_key(&source) {
            windows.retain(|_, window| !window.is_over(now));
            let oldest = windows.iter().min_by_key(|(_, window)| window.begun).map(|(source, _)| *source);
            if let Some(oldest) = oldest.filter(|_| windows.len() >= MAX_ADDRESSES) {
                windows.remove(&oldest);
            }
        }
        let window = windows.entry(source).or_insert(FailureWindow { begun: now, count: 0 });
        if window.is_over(now) {
            *window = FailureWindow { begun: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        window.count
    }
}

impl FailureWindow {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= WINDOW
    }
}

/// Returns the address by which failures are counted. One customer of a provider has at least a network of 64 bits of IPv6.
fn source(address: Option<IpAddr>) -> Option<IpAddr> {
    address.map(|address| match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn address_waits_after_its_failures_until_the_window_ends() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..MAX_FAILURES {
            assert_eq!(failures.wait(address("192.0.2.1"), now), None);
            failures.count(address("192.0.2.1"), now);
        }
        assert_eq!(failures.wait(address("192.0.2.1"), now), Some(WINDOW));
        assert!(failures.wait(address("::ffff:192.0.2.1"), now).is_some(), "the same address");
        assert_eq!(failures.wait(address("192.0.2.2"), now), None);
        assert_eq!(failures.wait(None, now), None);
        assert_eq!(failures.wait(address("192.0.2.1"), now + WINDOW), None);
        assert_eq!(failures.count(address("192.0.2.1"), now + WINDOW), 1);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_count_together() {
        let (failures, now) = (Failures::default(), Instant::now());
        for host in 0..MAX_FAILURES {
            failures.count(address(&format!("2001:db8::{host:x}")), now);
        }
        assert!(failures.wait(address("2001:db8::ffff:1"), now).is_some());
        assert_eq!(failures.wait(address("2001:db8:0:1::1"), now), None);
    }

    #[test]
    fn number_of_remembered_addresses_is_bounded() {
        let (failures, begun) = (Failures::default(), Instant::now());
        for host in 0..20_000_u32 {
            let address = IpAddr::V4(host.into());
            failures.count(Some(address), begun + Duration::from_millis(u64::from(host)));
        }
        let windows = failures.0.lock().unwrap();
        assert_eq!(windows.len(), MAX_ADDRESSES);
        assert!(windows.contains_key(&Some(IpAddr::V4(19_999.into()))));
    }
}
