//! Properties of the meet of obligations.

use super::{NetworkBound, Obligations, RequestedConfinement};
use agentd_core::{Bytes, CpuQuota, Limits, Network, Profile};
use agentd_egress::NetGrant;
use proptest::{collection, option, prelude::*, sample::select};
use std::{collections::BTreeSet, time::Duration};

/// Grants that contain each other in several ways.
const GRANTS: [&str; 12] = [
    "*.example:443",
    "*.a.example:443",
    "a.example:443",
    "b.a.example:443",
    "*.a.example:443/GET:/x",
    "b.a.example:443/GET:/x",
    "b.a.example:443/GET:/y",
    "b.a.example:443/tcp",
    "a.example:80",
    "10.0.0.0/8:22",
    "10.1.0.0/16:22",
    "10.1.2.3:22",
];

fn grants() -> impl Strategy<Value = Vec<NetGrant>> {
    collection::vec(select(&GRANTS[..]), 0..6).prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn network() -> impl Strategy<Value = NetworkBound> {
    prop_oneof![
        4 => grants().prop_map(NetworkBound::hosts_of),
        1 => Just(NetworkBound::any_host()),
        1 => Just(NetworkBound::host_network()),
    ]
}

fn profile() -> impl Strategy<Value = Profile> {
    select(vec![Profile::Strict, Profile::Default, Profile::Permissive])
}

fn limits() -> impl Strategy<Value = Limits> {
    let bytes = || option::of((1_u64..4).prop_map(Bytes));
    let time = || option::of((1_u64..4).prop_map(Duration::from_secs));
    let count = || option::of(1_u32..4);
    let first = (time(), time(), bytes(), bytes(), bytes());
    let second = (count(), option::of(1_u64..4), option::of((10_u32..13).prop_map(CpuQuota)), option::of(99_u32..102));
    (first, second).prop_map(|((wall, cpu_time, memory, file_size, output), (processes, open_files, cpu_quota, cpu_weight))| {
        Limits { wall, grace: None, cpu_time, memory, processes, open_files, file_size, output, cpu_quota, cpu_weight }
    })
}

fn names(of: [&'static str; 3]) -> impl Strategy<Value = BTreeSet<String>> {
    collection::btree_set(select(of.to_vec()).prop_map(str::to_owned), 0..3)
}

fn obligations() -> impl Strategy<Value = Obligations> {
    let fields = (profile(), limits(), network(), names(["container", "firecracker", "linux-native"]), names(["a", "b", "c"]));
    fields.prop_map(|(profile, limits, network, backends, approvals)| Obligations {
        profile,
        limits,
        network,
        backends,
        approvals,
    })
}

fn requested() -> impl Strategy<Value = RequestedConfinement> {
    let network = option::of(prop_oneof![
        Just(Network::Off),
        Just(Network::Host),
        grants().prop_map(|grants| Network::Egress(grants.iter().map(ToString::to_string).collect())),
    ]);
    let grace = option::of((0_u64..3).prop_map(Duration::from_secs));
    let backend = option::of(select(vec!["container".to_owned(), "host-direct".to_owned()]));
    (option::of(profile()), limits(), grace, network, backend).prop_map(|(profile, limits, grace, network, backend)| {
        RequestedConfinement { profile, limits: Limits { grace, ..limits }, network, backend }
    })
}

proptest! {
    #[test]
    fn meet_is_commutative_associative_and_idempotent(a in obligations(), b in obligations(), c in obligations()) {
        prop_assert_eq!(a.meet(&b), b.meet(&a));
        prop_assert_eq!(a.meet(&b).meet(&c), a.meet(&b.meet(&c)));
        prop_assert_eq!(a.meet(&a), a);
    }

    #[test]
    fn meet_is_within_both_and_the_weakest_that_is(a in obligations(), b in obligations(), c in obligations()) {
        let both = a.meet(&b);
        prop_assert!(both.is_within(&a) && both.is_within(&b));
        let lower = c.meet(&a).meet(&b);
        prop_assert!(lower.is_within(&both));
        prop_assert_eq!(a.is_within(&b) && b.is_within(&a), a == b);
    }

    /// Attacks the meet without its own order: what a caller gets under two policies, the caller gets under each of them.
    #[test]
    fn request_that_both_permit_together_is_permitted_by_each(a in obligations(), b in obligations(), asked in requested()) {
        if let Ok(effective) = a.meet(&b).apply(&asked) {
            for one in [&a, &b] {
                let same = RequestedConfinement {
                    profile: Some(effective.profile),
                    limits: effective.limits.clone(),
                    network: Some(effective.network.clone()),
                    backend: None,
                };
                let alone = one.apply(&same);
                prop_assert!(alone.is_ok(), "{alone:?}");
                prop_assert!(effective.backends.is_subset(&one.backends));
                prop_assert!(effective.approvals.is_superset(&one.approvals));
            }
        }
    }

    #[test]
    fn effective_limits_are_within_the_bounds(bound in obligations(), asked in requested()) {
        if let Ok(effective) = bound.apply(&asked) {
            let (limits, max) = (&effective.limits, &bound.limits);
            prop_assert!(effective.profile <= bound.profile);
            if let Some(max) = max.wall {
                prop_assert!(limits.wall.unwrap() + limits.grace.unwrap_or_default() <= max);
            }
            for (is, max) in [
                (limits.memory.map(|bytes| bytes.0), max.memory.map(|bytes| bytes.0)),
                (limits.processes.map(u64::from), max.processes.map(u64::from)),
                (limits.open_files, max.open_files),
            ] {
                prop_assert!(max.is_none() || is.is_some_and(|is| is <= max.unwrap()));
            }
        }
    }

    #[test]
    fn annotations_of_obligations_state_them(of in obligations()) {
        let backends = ["container", "firecracker", "linux-native"];
        let mut read = Obligations { limits: Limits::default(), ..Obligations::usual(BTreeSet::new()) };
        for (name, value) in of.annotations().into_iter().filter(|(name, value)| *name != "approval" && !value.is_empty()) {
            read.set(name, &value, &backends).unwrap();
        }
        read.approvals.clone_from(&of.approvals);
        prop_assert_eq!(read, of);
    }
}
