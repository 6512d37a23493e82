//! The limits of the network of a sandbox with granted hosts.

use crate::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Limits of the network of a sandbox ([`crate::Network::Egress`]). `None` means that agentd sets no limit of its own, except for
/// the bounds by which its gateway protects itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkLimits {
    /// Connections and flows of UDP that are open at once. Further ones are refused.
    pub connections: Option<u32>,
    /// Connections that start per second. Further ones are delayed; further flows of UDP are refused.
    pub new_connections: Option<u32>,
    /// Bytes that are carried in both directions together. When they are used up, all connections end, and further ones are
    /// refused.
    pub bytes: Option<Bytes>,
    /// Bytes per second in both directions together. Further bytes are delayed.
    pub rate: Option<Bytes>,
    /// DNS queries per second. Further ones are delayed.
    pub queries: Option<u32>,
}

/// The limits that delayed a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayedBy {
    /// [`NetworkLimits::new_connections`].
    pub new_connections: bool,
    /// [`NetworkLimits::rate`].
    pub rate: bool,
    /// [`NetworkLimits::queries`].
    pub queries: bool,
}

impl DelayedBy {
    /// Returns the names of the limits.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.new_connections, NEW_CONNECTIONS), (self.rate, RATE), (self.queries, QUERIES)];
        all.into_iter().filter_map(|(delayed, name)| delayed.then_some(name)).collect()
    }

    /// Returns the limits of both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            new_connections: self.new_connections || other.new_connections,
            rate: self.rate || other.rate,
            queries: self.queries || other.queries,
        }
    }
}

const CONNECTIONS: &str = "connections";
const NEW_CONNECTIONS: &str = "new-connections";
const BYTES: &str = "bytes";
const RATE: &str = "rate";
const QUERIES: &str = "queries";

impl NetworkLimits {
    /// Returns the smaller limit of each kind.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.into_iter().chain(b).min()
        }
        Self {
            connections: least(self.connections, other.connections),
            new_connections: least(self.new_connections, other.new_connections),
            bytes: least(self.bytes, other.bytes),
            rate: least(self.rate, other.rate),
            queries: least(self.queries, other.queries),
        }
    }

    /// Returns true if there is no limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads limits that are separated by commas: `connections=NUMBER`, `new-connections=NUMBER/s`, `bytes=SIZE`, `rate=SIZE/s` and
/// `queries=NUMBER/s`. Each limit is at least 1.
impl FromStr for NetworkLimits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for item in text.split(',').map(str::trim) {
            let bad = || {
                format!(
                    "'{item}' is not a limit of the network — use {CONNECTIONS}=NUMBER, {NEW_CONNECTIONS}=NUMBER/s, {BYTES}=SIZE, \
                     {RATE}=SIZE/s or {QUERIES}=NUMBER/s, each at least 1"
                )
            };
            let (name, value) = item.split_once('=').ok_or_else(bad)?;
            let per_second = || value.strip_suffix("/s");
            let size = |text: &str| text.parse().ok().filter(|bytes: &Bytes| bytes.0 > 0);
            let (slot, number) = match name {
                CONNECTIONS => (&mut limits.connections, number(value)),
                NEW_CONNECTIONS => (&mut limits.new_connections, per_second().and_then(number)),
                QUERIES => (&mut limits.queries, per_second().and_then(number)),
                BYTES => {
                    set(&mut limits.bytes, size(value).ok_or_else(bad)?, name)?;
                    continue;
                }
                RATE => {
                    set(&mut limits.rate, per_second().and_then(size).ok_or_else(bad)?, name)?;
                    continue;
                }
                _ => return Err(bad()),
            };
            set(slot, number.ok_or_else(bad)?, name)?;
        }
        Ok(limits)
    }
}

fn number(text: &str) -> Option<u32> {
    // `u32::from_str` also accepts a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number > 0)
}

fn set<T>(slot: &mut Option<T>, value: T, name: &str) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("the limit {name} is given twice — give it once")),
    }
}

/// The text form, which parses to equal limits.
impl fmt::Display for NetworkLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = [
            self.connections.map(|number| format!("{CONNECTIONS}={number}")),
            self.new_connections.map(|number| format!("{NEW_CONNECTIONS}={number}/s")),
            self.bytes.map(|bytes| format!("{BYTES}={bytes}")),
            self.rate.map(|bytes| format!("{RATE}={bytes}/s")),
            self.queries.map(|number| format!("{QUERIES}={number}/s")),
        ];
        f.write_str(&items.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_in_their_notation_are_parsed() {
        let all = "connections=100,new-connections=20/s,bytes=1G,rate=2M/s,queries=50/s";
        let limits: NetworkLimits = all.parse().unwrap();
        let expected = NetworkLimits {
            connections: Some(100),
            new_connections: Some(20),
            bytes: Some(Bytes(1 << 30)),
            rate: Some(Bytes(2 << 20)),
            queries: Some(50),
        };
        assert_eq!((limits, limits.to_string().as_str()), (expected, all));
        for text in [
            "",
            "connections",
            "connections=",
            "connections=0",
            "connections=+1",
            "connections=1/s",
            "new-connections=1",
            "rate=1M",
            "bytes=0",
            "bytes=1M/s",
            "queries=-1/s",
            "connections=1,",
            "connections=1,connections=2",
            "rates=1M/s",
        ] {
            let error = text.parse::<NetworkLimits>().unwrap_err();
            assert!(error.contains(" — "), "{text}: {error}");
        }
    }

    #[test]
    fn smaller_limit_of_each_kind_counts() {
        let limits = |text: &str| text.parse::<NetworkLimits>().unwrap();
        let both = limits("connections=5,bytes=1M").tightest(limits("connections=9,bytes=1K,rate=1M/s"));
        assert_eq!(both, limits("connections=5,bytes=1K,rate=1M/s"));
        assert!(!both.is_empty() && NetworkLimits::default().is_empty());
    }

    proptest! {
        #[test]
        fn printed_limits_parse_to_the_same_values(numbers in prop::collection::vec(prop::option::of(1_u32..), 5)) {
            let bytes = |number: Option<u32>| number.map(|number| Bytes(u64::from(number) << 7));
            let limits = NetworkLimits {
                connections: numbers[0],
                new_connections: numbers[1],
                bytes: bytes(numbers[2]),
                rate: bytes(numbers[3]),
                queries: numbers[4],
            };
            prop_assert!(limits.is_empty() || limits.to_string().parse() == Ok(limits));
        }

        #[test]
        fn parse_of_any_limits_does_not_panic(text in "[a-z=,/-]{0,12}[0-9KMs/]{0,6}") {
            text.parse::<NetworkLimits>().ok();
        }
    }
}
