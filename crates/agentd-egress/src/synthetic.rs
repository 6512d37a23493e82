//! Addresses that stand for names in one sandbox.
//!
//! A granted name gets one address of each family when the sandbox first asks for the name. A connection to such an address
//! therefore shows which name the program wanted. No address is assigned to a second name while the sandbox lives.

use crate::name::HostName;
use ipnet::{Ipv4Net, Ipv6Net};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The range of synthetic IPv4 addresses: RFC 2544, which no host of the internet has. The first addresses are not used for
/// names, so that the namespace may have its own addresses there.
pub const SYNTHETIC_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);
/// The range of synthetic IPv6 addresses: a prefix of RFC 4193.
pub const SYNTHETIC_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd61, 0x6765, 0x6e74, 0, 0, 0, 0, 0), 64);

/// The number of addresses at the start of each range that no name gets.
const RESERVED: u32 = 256;

/// The names of one sandbox, and their addresses.
#[derive(Debug, Clone)]
pub struct SyntheticNames {
    max: u32,
    names: Vec<HostName>,
    positions: HashMap<HostName, u32>,
}

/// The synthetic addresses of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyntheticPair {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl SyntheticNames {
    /// Creates a table for at most `max` names, and never more than the IPv4 range holds.
    pub fn new(max: usize) -> Self {
        let range = u32::MAX >> SYNTHETIC_V4.prefix_len();
        let max = u32::try_from(max).unwrap_or(u32::MAX).min(range - RESERVED);
        Self { max, names: Vec::new(), positions: HashMap::new() }
    }

    /// Returns the addresses of the name, and assigns them first if necessary. Returns `None` if the table is full.
    pub fn assign(&mut self, name: &HostName) -> Option<SyntheticPair> {
        if let Some(position) = self.positions.get(name) {
            return Some(pair(*position));
        }
        let position = u32::try_from(self.names.len()).ok().filter(|position| *position < self.max)?;
        self.names.push(name.clone());
        self.positions.insert(name.clone(), position);
        Some(pair(position))
    }

    /// Returns the name to which the address was assigned.
    pub fn name_of(&self, address: IpAddr) -> Option<&HostName> {
        let offset = match address {
            IpAddr::V4(address) => u128::from(address.to_bits().checked_sub(SYNTHETIC_V4.addr().to_bits())?),
            IpAddr::V6(address) => address.to_bits().checked_sub(SYNTHETIC_V6.addr().to_bits())?,
        };
        self.names.get(usize::try_from(offset.checked_sub(RESERVED.into())?).ok()?)
    }
}

/// Returns true if the address is in a range of synthetic addresses.
pub fn is_synthetic(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => SYNTHETIC_V4.contains(&address),
        IpAddr::V6(address) => SYNTHETIC_V6.contains(&address),
    }
}

/// Returns true if the address is one of the reserved addresses at the start of a range.
pub(crate) fn is_own(address: IpAddr) -> bool {
    let own = u128::from(RESERVED);
    match address {
        IpAddr::V4(address) => {
            address.to_bits().checked_sub(SYNTHETIC_V4.addr().to_bits()).is_some_and(|offset| offset < RESERVED)
        }
        IpAddr::V6(address) => address.to_bits().checked_sub(SYNTHETIC_V6.addr().to_bits()).is_some_and(|offset| offset < own),
    }
}

fn pair(position: u32) -> SyntheticPair {
    let offset = RESERVED + position;
    SyntheticPair {
        v4: Ipv4Addr::from_bits(SYNTHETIC_V4.addr().to_bits() + offset),
        v6: Ipv6Addr::from_bits(SYNTHETIC_V6.addr().to_bits() + u128::from(offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    #[test]
    fn address_stands_for_one_name_for_ever_and_a_full_table_assigns_none() {
        let mut names = SyntheticNames::new(2);
        let a = names.assign(&name("a.example")).unwrap();
        let b = names.assign(&name("b.example")).unwrap();
        assert_ne!((a.v4, a.v6), (b.v4, b.v6));
        assert_eq!(names.assign(&name("A.example.")), Some(a));
        assert_eq!(names.assign(&name("c.example")), None);
        for (pair, expected) in [(a, "a.example"), (b, "b.example")] {
            for address in [IpAddr::V4(pair.v4), IpAddr::V6(pair.v6)] {
                assert!(is_synthetic(address));
                assert_eq!(names.name_of(address), Some(&name(expected)));
            }
        }
    }

    #[test]
    fn addresses_without_a_name_have_none() {
        let mut names = SyntheticNames::new(usize::MAX);
        names.assign(&name("a.example")).unwrap();
        for other in [
            "198.18.0.0",
            "198.18.0.255",
            "198.18.1.1",
            "198.17.255.255",
            "8.8.8.8",
            "255.255.255.255",
            "::1",
            "fd61:6765:6e74::",
            "fd61:6765:6e74::101",
            "ffff::",
        ] {
            assert_eq!(names.name_of(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn largest_table_stays_in_its_range() {
        let names = SyntheticNames::new(usize::MAX);
        assert!(SYNTHETIC_V4.contains(&pair(names.max - 1).v4) && SYNTHETIC_V6.contains(&pair(names.max - 1).v6));
        assert!(!SYNTHETIC_V4.contains(&pair(names.max).v4) || pair(names.max).v4 == SYNTHETIC_V4.broadcast());
    }
}
