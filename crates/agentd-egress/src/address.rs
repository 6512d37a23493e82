//! Addresses to which a name may not lead, unless a grant names their range.
//!
//! The gateway applies the rule after resolution, to the address to which it connects. A name whose DNS an attacker controls
//! (rebinding) therefore reaches neither the host, nor its network, nor the metadata service of a cloud.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The kind of a range that is not the public internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpecialKind {
    /// `0.0.0.0/8` and `::`. Linux connects to the host itself.
    Unspecified,
    /// The host itself.
    Loopback,
    /// Private networks (RFC 1918, RFC 4193), shared address space (RFC 6598), and site-local addresses (RFC 3879).
    Private,
    /// Link-local addresses, among them the metadata services of clouds.
    LinkLocal,
    /// A platform's service at a public address (Azure's `168.63.129.16`).
    Metadata,
    /// Multicast.
    Multicast,
    /// Broadcast, and ranges that are reserved, for documentation, or for measurements.
    Reserved,
    /// An IPv4 address in IPv6 form (`::ffff:0:0/96` and `::/96`).
    Mapped,
    /// An IPv4 address in a form that a translator or tunnel unwraps: NAT64, 6to4, Teredo.
    Embedded,
    /// An address of this host itself.
    Own,
}

impl fmt::Display for SpecialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata service",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Mapped => "IPv4-mapped",
            Self::Embedded => "an IPv4 address embedded for a translator or tunnel",
            Self::Own => "this host's own",
        })
    }
}

/// A range with its kind. A grant permits addresses of the block only if the grant's range lies within the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialBlock {
    /// The block.
    pub range: IpNet,
    /// The kind of the addresses in the block.
    pub kind: SpecialKind,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8, kind: SpecialKind) -> (Ipv4Net, SpecialKind) {
    (Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length), kind)
}

const fn v6(head: [u16; 4], tail: [u16; 4], length: u8, kind: SpecialKind) -> (Ipv6Net, SpecialKind) {
    let address = Ipv6Addr::new(head[0], head[1], head[2], head[3], tail[0], tail[1], tail[2], tail[3]);
    (Ipv6Net::new_assert(address, length), kind)
}

/// Sources: the IANA IPv4 Special-Purpose Address Registry, RFC 5771 (multicast), RFC 1112 (240/4). The first match counts.
const SPECIAL_V4: [(Ipv4Net, SpecialKind); 17] = [
    v4(0, 0, 0, 0, 8, SpecialKind::Unspecified),
    v4(10, 0, 0, 0, 8, SpecialKind::Private),
    v4(100, 64, 0, 0, 10, SpecialKind::Private),
    v4(127, 0, 0, 0, 8, SpecialKind::Loopback),
    v4(168, 63, 129, 16, 32, SpecialKind::Metadata),
    v4(169, 254, 0, 0, 16, SpecialKind::LinkLocal),
    v4(172, 16, 0, 0, 12, SpecialKind::Private),
    v4(192, 0, 0, 0, 24, SpecialKind::Reserved),
    v4(192, 0, 2, 0, 24, SpecialKind::Reserved),
    v4(192, 88, 99, 0, 24, SpecialKind::Embedded),
    v4(192, 168, 0, 0, 16, SpecialKind::Private),
    v4(198, 18, 0, 0, 15, SpecialKind::Reserved),
    v4(198, 51, 100, 0, 24, SpecialKind::Reserved),
    v4(203, 0, 113, 0, 24, SpecialKind::Reserved),
    v4(224, 0, 0, 0, 4, SpecialKind::Multicast),
    v4(255, 255, 255, 255, 32, SpecialKind::Reserved),
    v4(240, 0, 0, 0, 4, SpecialKind::Reserved),
];

/// Sources: the IANA IPv6 Special-Purpose Address Registry, RFC 4291, RFC 3879. The first match counts. All other addresses
/// outside of `2000::/3` are not global unicast, and are refused as reserved.
const SPECIAL_V6: [(Ipv6Net, SpecialKind); 17] = [
    v6([0; 4], [0; 4], 128, SpecialKind::Unspecified),
    v6([0; 4], [0, 0, 0, 1], 128, SpecialKind::Loopback),
    v6([0; 4], [0, 0xffff, 0, 0], 96, SpecialKind::Mapped),
    v6([0; 4], [0; 4], 96, SpecialKind::Mapped),
    v6([0x64, 0xff9b, 0, 0], [0; 4], 96, SpecialKind::Embedded),
    v6([0x64, 0xff9b, 1, 0], [0; 4], 48, SpecialKind::Embedded),
    v6([0x2001, 0, 0, 0], [0; 4], 32, SpecialKind::Embedded),
    v6([0x2001, 0, 0, 0], [0; 4], 23, SpecialKind::Reserved),
    v6([0x2001, 0xdb8, 0, 0], [0; 4], 32, SpecialKind::Reserved),
    v6([0x2002, 0, 0, 0], [0; 4], 16, SpecialKind::Embedded),
    v6([0x3fff, 0, 0, 0], [0; 4], 20, SpecialKind::Reserved),
    v6([0xfc00, 0, 0, 0], [0; 4], 7, SpecialKind::Private),
    v6([0xfe80, 0, 0, 0], [0; 4], 10, SpecialKind::LinkLocal),
    v6([0xfec0, 0, 0, 0], [0; 4], 10, SpecialKind::Private),
    v6([0xff00, 0, 0, 0], [0; 4], 8, SpecialKind::Multicast),
    v6([0x5f00, 0, 0, 0], [0; 4], 16, SpecialKind::Reserved),
    v6([0x100, 0, 0, 0], [0; 4], 64, SpecialKind::Reserved),
];

const GLOBAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Returns the block that contains the address, or `None` for an address of the public internet.
pub fn special(address: IpAddr) -> Option<SpecialBlock> {
    match address {
        IpAddr::V4(address) => {
            let (range, kind) = SPECIAL_V4.iter().find(|(range, _)| range.contains(&address))?;
            Some(SpecialBlock { range: IpNet::V4(*range), kind: *kind })
        }
        IpAddr::V6(address) => {
            let known = SPECIAL_V6.iter().find(|(range, _)| range.contains(&address));
            if let Some((range, kind)) = known {
                return Some(SpecialBlock { range: IpNet::V6(*range), kind: *kind });
            }
            let other = || SpecialBlock { range: IpNet::from(IpAddr::V6(address)), kind: SpecialKind::Reserved };
            (!GLOBAL_V6.contains(&address)).then(other)
        }
    }
}

/// Returns the IPv4 address inside an IPv6 address, to which a translator, a tunnel or the kernel would send.
pub fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let octets = address.octets();
    let at = |start: usize| Ipv4Addr::new(octets[start], octets[start + 1], octets[start + 2], octets[start + 3]);
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(at(12)),
        // RFC 8215 with a prefix of 96 bits, which is the usual one.
        [0x64, 0xff9b, 1, ..] => Some(at(12)),
        [0x2002, ..] => Some(at(2)),
        // RFC 4380, 4: the client's address has its bits inverted.
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!at(12).to_bits())),
        _ => None,
    }
}

/// Checks whether a name may lead to the address. `lifted` returns whether a grant names a range within the given block that
/// contains the address.
///
/// # Errors
/// The kind of the address, if no grant names its range. If an IPv6 address contains an IPv4 address, both addresses are checked.
pub fn check(address: IpAddr, lifted: &dyn Fn(IpAddr, SpecialBlock) -> bool) -> Result<(), SpecialKind> {
    let passes = |address| match special(address) {
        Some(block) if !lifted(address, block) => Err(block.kind),
        _ => Ok(()),
    };
    passes(address)?;
    embedded(address).map_or(Ok(()), |inner| passes(IpAddr::V4(inner)))
}
