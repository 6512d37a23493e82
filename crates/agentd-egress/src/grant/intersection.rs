//! Comparison of grants: which grant permits more, and what two grants permit together.
//!
//! Two patterns of names are nested or disjoint, and so are two ranges of addresses. Two different rules on requests count as
//! disjoint, because their paths may overlap in ways that no single rule describes.

use super::{Hosts, NetGrant};

impl Hosts {
    fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Names(own), Self::Names(other)) => own.contains(other),
            (Self::Range(own), Self::Range(other)) => own.contains(other),
            (Self::Names(_), Self::Range(_)) | (Self::Range(_), Self::Names(_)) => false,
        }
    }
}

impl NetGrant {
    /// Returns true if this grant permits everything that `other` permits. The protocols must be equal.
    pub fn covers(&self, other: &Self) -> bool {
        self.hosts.contains(&other.hosts)
            && (self.port, self.carried) == (other.port, other.carried)
            && (self.request.is_none() || self.request == other.request)
            && (!self.approval || other.approval)
    }

    /// Returns the grant that permits only what both grants permit; `None` if there is nothing.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (narrow, wide) = if self.hosts.contains(&other.hosts) { (other, self) } else { (self, other) };
        let request = match (&narrow.request, &wide.request) {
            (Some(rule), None) | (None, Some(rule)) => Some(rule.clone()),
            (own, other) if own == other => own.clone(),
            _ => return None,
        };
        let both = Self { request, approval: self.approval || other.approval, ..narrow.clone() };
        wide.covers(&both).then_some(both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> NetGrant {
        text.parse().unwrap()
    }

    #[test]
    fn intersection_of_grants_is_the_narrower_or_nothing() {
        for (one, other, both) in [
            ("a.example", "a.example", Some("a.example")),
            ("*.example", "a.example", Some("a.example")),
            ("*.example", "*.a.example", Some("*.a.example")),
            ("*.a.example", "a.example", None),
            ("a.example", "b.example", None),
            ("*.a.example", "*.b.example", None),
            ("*.example", "badexample", None),
            ("a.example:443", "a.example:8443", None),
            ("a.example:443/tcp", "a.example:443/tls", None),
            ("a.example:443/udp", "a.example:443/tcp", None),
            ("a.example/approve", "a.example", Some("a.example/approve")),
            ("*.example/approve", "a.example", Some("a.example/approve")),
            ("*.example", "a.example/approve/GET:/x", Some("a.example/approve/GET:/x")),
            ("*.example:123/udp", "a.example:123/udp", Some("a.example:123/udp")),
            ("a.example/GET:/x", "*.example", Some("a.example/GET:/x")),
            ("a.example", "*.example/GET:/x", Some("a.example/GET:/x")),
            ("a.example/GET:/x", "a.example/GET:/y", None),
            ("10.0.0.0/8:22", "10.1.0.0/16:22", Some("10.1.0.0/16:22")),
            ("10.0.0.0/8:22", "11.0.0.0/8:22", None),
            ("[fd00::/8]:22", "10.0.0.0/8:22", None),
            ("10.0.0.1:443/tcp", "a.example:443/tcp", None),
        ] {
            let (one, other) = (grant(one), grant(other));
            let both = both.map(grant);
            assert_eq!(one.intersection(&other), both, "{one} and {other}");
            assert_eq!(other.intersection(&one), both, "{other} and {one}");
            assert_eq!(one.covers(&other), both.as_ref() == Some(&other), "{one} covers {other}");
        }
    }
}
