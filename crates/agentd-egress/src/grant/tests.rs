use super::*;
use crate::name::HostName;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn grants(text: &str) -> NetGrants {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn items_have_one_complete_text_form() {
    for (item, complete) in [
        ("pypi.example", "pypi.example:443"),
        ("PyPI.Example.", "pypi.example:443"),
        ("bücher.example", "xn--bcher-kva.example:443"),
        ("*.files.example:443", "*.files.example:443"),
        ("pypi.example:443/tls", "pypi.example:443"),
        ("pypi.example:443/tcp", "pypi.example:443/tcp"),
        ("pypi.example:80", "pypi.example:80"),
        ("pypi.example:80/http", "pypi.example:80"),
        ("pypi.example:8080/http", "pypi.example:8080/http"),
        ("git.example:22", "git.example:22"),
        ("time.example:123/udp", "time.example:123/udp"),
        ("api.example.com:443/GET:/v1/*", "api.example.com:443/GET:/v1/*"),
        ("api.example.com/POST:/v1/x", "api.example.com:443/POST:/v1/x"),
        ("api.example.com:8080/http/*:/", "api.example.com:8080/http/*:/"),
        ("api.example.com/GET:/a%2Cb/c%3fd/%41", "api.example.com:443/GET:/a%2Cb/c%3Fd/A"),
        ("api.example.com/approve", "api.example.com:443/approve"),
        ("api.example.com:443/tls/approve/GET:/v1/*", "api.example.com:443/approve/GET:/v1/*"),
        ("git.example:2222/tcp/approve", "git.example:2222/approve"),
        ("10.1.2.0/24:5432/approve", "10.1.2.0/24:5432/approve"),
        ("10.1.2.0/24:5432", "10.1.2.0/24:5432"),
        ("10.1.2.3:5432", "10.1.2.3:5432"),
        ("10.1.2.3/32:5432", "10.1.2.3:5432"),
        ("10.1.2.0/24:5432/udp", "10.1.2.0/24:5432/udp"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("[::1]:8080/tcp", "[::1]:8080"),
    ] {
        let parsed: NetGrant = item.parse().unwrap_or_else(|error| panic!("{item}: {error}"));
        assert_eq!(parsed.to_string(), complete, "{item}");
        assert_eq!(complete.parse(), Ok(parsed), "{item}");
    }
}

#[test]
fn items_that_are_no_grant_are_refused_with_a_remedy() {
    type Kind = fn(&GrantError) -> bool;
    let cases: &[(&str, Kind)] = &[
        ("a.example,,b.example", |e| matches!(e, GrantError::Empty)),
        ("a.example:53/approve", |e| matches!(e, GrantError::Dns { .. })),
        ("a.example:123/udp/approve", |e| matches!(e, GrantError::Datagrams { .. })),
        ("a.example/approve/tls", |e| matches!(e, GrantError::Suffix { .. })),
        ("a.example/approve/approve", |e| matches!(e, GrantError::Suffix { .. })),
        ("a.example,", |e| matches!(e, GrantError::Empty)),
        ("*", |e| matches!(e, GrantError::Everything { .. })),
        ("*:443", |e| matches!(e, GrantError::Everything { .. })),
        ("*.", |e| matches!(e, GrantError::Everything { .. })),
        ("a.*.example", |e| matches!(e, GrantError::Wildcard { .. })),
        ("*a.example", |e| matches!(e, GrantError::Wildcard { .. })),
        ("*.*.example", |e| matches!(e, GrantError::Wildcard { .. })),
        ("a..example", |e| matches!(e, GrantError::Name { .. })),
        ("127.1:80", |e| matches!(e, GrantError::Name { .. })),
        ("0x7f000001:80", |e| matches!(e, GrantError::Name { .. })),
        (":443", |e| matches!(e, GrantError::Name { .. })),
        ("user@a.example", |e| matches!(e, GrantError::Form { .. })),
        ("https://a.example", |e| matches!(e, GrantError::Form { .. })),
        ("10.0.0.0/33:1", |e| matches!(e, GrantError::Range { .. })),
        ("10.0.0.0/999:1", |e| matches!(e, GrantError::Range { .. })),
        ("::1", |e| matches!(e, GrantError::Range { .. })),
        ("2001:db8::/32", |e| matches!(e, GrantError::Range { .. })),
        ("[::1", |e| matches!(e, GrantError::Range { .. })),
        ("[a.example]:443", |e| matches!(e, GrantError::Range { .. })),
        ("10.1.2.3/24:5432", |e| matches!(e, GrantError::HostBits { .. })),
        ("[::ffff:10.0.0.0/104]:80", |e| matches!(e, GrantError::Mapped { .. })),
        ("10.1.2.0/24", |e| matches!(e, GrantError::NoPort { .. })),
        ("[::1]", |e| matches!(e, GrantError::NoPort { .. })),
        ("a.example:0", |e| matches!(e, GrantError::Port { .. })),
        ("a.example:+80", |e| matches!(e, GrantError::Port { .. })),
        ("a.example:65536", |e| matches!(e, GrantError::Port { .. })),
        ("a.example:", |e| matches!(e, GrantError::Form { .. })),
        ("a.example:53", |e| matches!(e, GrantError::Dns { .. })),
        ("10.0.0.1:53/udp", |e| matches!(e, GrantError::Dns { .. })),
        ("a.example:443/quic", |e| matches!(e, GrantError::Suffix { .. })),
        ("a.example:443/tls/x", |e| matches!(e, GrantError::Suffix { .. })),
        ("a.example/get:/x", |e| matches!(e, GrantError::Form { .. })),
        ("10.0.0.1:443/tls", |e| matches!(e, GrantError::NeedsName { .. })),
        ("10.0.0.1:80/GET:/x", |e| matches!(e, GrantError::NeedsName { .. })),
        ("a.example:22/GET:/x", |e| matches!(e, GrantError::NoRequests { .. })),
        ("a.example:443/udp/GET:/x", |e| matches!(e, GrantError::NoRequests { .. })),
        ("a.example/GET:x", |e| matches!(e, GrantError::Path { source: PathError::Relative, .. })),
        ("a.example/GET:/a%2Fb", |e| matches!(e, GrantError::Path { source: PathError::Hidden, .. })),
        ("a.example/GET:/a%252Fb", |e| matches!(e, GrantError::Path { source: PathError::Hidden, .. })),
        ("a.example/GET:/a%00", |e| matches!(e, GrantError::Path { source: PathError::Hidden, .. })),
        ("a.example/GET:/a/../b", |e| matches!(e, GrantError::Path { source: PathError::Dots, .. })),
        ("a.example/GET:/a/%2e%2E/b", |e| matches!(e, GrantError::Path { source: PathError::Dots, .. })),
        ("a.example/GET:/a/..;x/b", |e| matches!(e, GrantError::Path { source: PathError::Dots, .. })),
        ("a.example/GET://b", |e| matches!(e, GrantError::Path { source: PathError::Doubled, .. })),
        ("a.example/GET:/a%2", |e| matches!(e, GrantError::Path { source: PathError::Escape, .. })),
        ("a.example/GET:/a?b", |e| matches!(e, GrantError::Path { source: PathError::Character, .. })),
        ("a.example/GET:/ä", |e| matches!(e, GrantError::Path { source: PathError::Character, .. })),
        ("a.example/GET:/a*", |e| matches!(e, GrantError::Path { source: PathError::Wildcard, .. })),
    ];
    for (text, kind) in cases {
        let error = text.parse::<NetGrants>().expect_err(text);
        assert!(kind(&error), "{text}: {error:?}");
        assert!(!agentd_core::Remedy::in_message(&error.to_string()).as_str().is_empty(), "{text}: {error}");
    }
    assert_eq!("  ".parse(), Ok(NetGrants::default()));
}

#[test]
fn name_is_granted_at_its_port_only() {
    let grants = grants("a.example, *.b.example:22, 10.0.0.0/8:5432, time.example:123/udp");
    assert!(
        grants.has_name(&name("a.example")) && grants.has_name(&name("x.y.b.example")) && grants.has_name(&name("time.example"))
    );
    for other in ["b.example", "xa.example", "a.example.com", "ab.example"] {
        assert!(!grants.has_name(&name(other)), "{other}");
    }
    assert_eq!(grants.tcp_name(&name("a.example"), 443).map(|access| access.carried), Some(Carried::Tls));
    assert_eq!(grants.tcp_name(&name("a.example"), 80), None);
    assert_eq!(grants.tcp_name(&name("x.b.example"), 22).map(|access| access.rule).as_deref(), Some("*.b.example:22"));
    assert_eq!(grants.tcp_name(&name("time.example"), 123), None, "a grant of UDP allows no TCP");
    assert!(grants.address(Transport::Tcp, address("10.9.9.9"), 5432).is_some());
    assert_eq!(grants.address(Transport::Tcp, address("10.9.9.9"), 5433), None);
    assert_eq!(grants.address(Transport::Tcp, address("11.0.0.1"), 5432), None);
}

#[test]
fn approval_is_needed_if_any_grant_of_the_same_precedence_needs_it() {
    let needs = |list: &str, host: &str| grants(list).tcp_name(&name(host), 443).map(|access| access.approval);
    assert_eq!(needs("a.example", "a.example"), Some(false));
    assert_eq!(needs("a.example/approve", "a.example"), Some(true));
    assert_eq!(needs("a.example,a.example/approve", "a.example"), Some(true));
    assert_eq!(needs("a.example/GET:/x,a.example/approve/GET:/y", "a.example"), Some(true));
    assert_eq!(needs("*.example/approve,a.example", "a.example"), Some(false), "a grant of exactly this name takes precedence");
    assert_eq!(needs("*.example,a.example/approve", "a.example"), Some(true));
    let ranges = grants("10.0.0.0/8:5432,10.1.0.0/16:5432/approve");
    assert_eq!(ranges.address(Transport::Tcp, address("10.1.0.1"), 5432).map(|access| access.approval), Some(true));
    // QUIC would reach the host without the approval.
    assert!(grants("a.example/approve,*.example:443/udp").bypassed().is_some());
    assert!(grants("a.example,*.example:443/udp").bypassed().is_none());
}

#[test]
fn grant_of_one_transport_neither_allows_the_other_nor_permits_special_addresses_to_it() {
    let grants = grants("*.a.example:123/udp,10.0.0.0/8:514/udp,127.0.0.1:53000");
    let rule = |access: Option<Access>| access.map(|access| access.rule);
    assert_eq!(rule(grants.name(Transport::Udp, &name("x.a.example"), 123)).as_deref(), Some("*.a.example:123/udp"));
    assert_eq!(rule(grants.address(Transport::Udp, address("10.9.9.9"), 514)).as_deref(), Some("10.0.0.0/8:514/udp"));
    for (transport, to, port, allowed) in [
        (Transport::Udp, "10.9.9.9", 514, true),
        (Transport::Tcp, "10.9.9.9", 514, false),
        (Transport::Tcp, "127.0.0.1", 53000, true),
        (Transport::Udp, "127.0.0.1", 53000, false),
    ] {
        assert_eq!(grants.address(transport, address(to), port).is_some(), allowed, "{transport:?} {to}");
        assert_eq!(grants.check_address(transport, address(to), port).is_ok(), allowed, "{transport:?} {to}");
        let own = grants.names_own_address(transport, address(to), port);
        assert_eq!(own, allowed && to.starts_with("127."), "{transport:?} {to}");
    }
}

#[test]
fn udp_at_a_port_with_limited_requests_is_found() {
    for (text, bypassed) in [
        ("a.example/GET:/x,a.example:443/udp", true),
        ("*.example:443/udp,a.example/GET:/x", true),
        ("*.a.example/GET:/x,*.b.a.example:443/udp", true),
        ("a.example:80/GET:/x,a.example:80/udp", true),
        ("a.example/GET:/x,a.example:444/udp,b.example:443/udp", false),
        ("*.a.example/GET:/x,a.example:443/udp", false),
        ("a.example,a.example:443/udp", false),
        ("a.example/GET:/x,1.2.3.4:443/udp", false),
    ] {
        assert_eq!(grants(text).bypassed().is_some(), bypassed, "{text}");
    }
}

#[test]
fn exact_name_decides_before_a_wildcard() {
    let grants = grants("*.a.example:443/tcp, x.a.example:443");
    assert_eq!(grants.tcp_name(&name("x.a.example"), 443).map(|access| access.carried), Some(Carried::Tls));
    assert_eq!(grants.tcp_name(&name("y.a.example"), 443).map(|access| access.carried), Some(Carried::Tcp));
}

#[test]
fn requests_of_several_grants_add_up_and_one_without_a_rule_allows_all() {
    let rules = |text: &str| grants(text).tcp_name(&name("a.example"), 80).map(|access| access.requests.len());
    assert_eq!(rules("a.example:80/GET:/x"), Some(1));
    assert_eq!(rules("a.example:80/GET:/x,a.example:80/POST:/y"), Some(2));
    assert_eq!(rules("a.example:80/GET:/x,a.example:80"), Some(0));
    assert_eq!(rules("a.example:80,a.example:80/GET:/x"), Some(0));
    assert_eq!(rules("a.example:80/GET:/x,a.example:80,a.example:80/GET:/y"), Some(0));
}

#[test]
fn rule_of_a_request_matches_whole_segments() {
    let rule = |text: &str| {
        let (method, path) = text.split_once(':').unwrap();
        RequestRule::new(method, path).unwrap()
    };
    for (text, method, path, allowed) in [
        ("GET:/v1/*", "GET", "/v1/a", true),
        ("GET:/v1/*", "GET", "/v1/a/b/", true),
        ("GET:/v1/*", "GET", "/v1/", false),
        ("GET:/v1/*", "GET", "/v1", false),
        ("GET:/v1/*", "GET", "/v10/a", false),
        ("GET:/v1/*", "POST", "/v1/a", false),
        ("GET:/v1/*", "get", "/v1/a", false),
        ("GET:/repos/*/issues", "GET", "/repos/x/issues", true),
        ("GET:/repos/*/issues", "GET", "/repos/x/y/issues", false),
        ("*:/x", "DELETE", "/x", true),
        ("*:/x", "DELETE", "/x/", false),
        ("*:/x", "DELETE", "/%78", true),
        ("*:/X", "GET", "/x", false),
        ("GET:/a%2Cb", "GET", "/a,b", true),
        ("GET:/%2A", "GET", "/anything", false),
    ] {
        assert_eq!(rule(text).allows(method, path.as_bytes()), Ok(allowed), "{text} {method} {path}");
    }
    let rule = rule("*:/public/*");
    for (path, error) in [
        ("/public/../admin", PathError::Dots),
        ("/public/%2e%2e/admin", PathError::Dots),
        ("/public/..;/admin", PathError::Dots),
        ("/public/..%20/admin", PathError::Dots),
        ("/public/%c0%ae%c0%ae/admin", PathError::Encoding),
        ("/public%2Fadmin", PathError::Hidden),
        ("/public/%252e%252e/admin", PathError::Hidden),
        ("/public/..\\admin", PathError::Character),
        ("/public//admin", PathError::Doubled),
        ("//public/a", PathError::Doubled),
        ("public/a", PathError::Relative),
    ] {
        assert_eq!(rule.allows("GET", path.as_bytes()), Err(error), "{path}");
    }
}

/// At least one address of every block, and the addresses directly outside of the block that are public.
#[test]
fn addresses_outside_of_the_public_internet_are_refused() {
    use SpecialKind::{Embedded, LinkLocal, Loopback, Mapped, Metadata, Multicast, Private, Reserved, Unspecified};
    let none = NetGrants::default();
    for (text, kind) in [
        ("0.0.0.0", Unspecified),
        ("0.255.255.255", Unspecified),
        ("10.0.0.0", Private),
        ("10.255.255.255", Private),
        ("100.64.0.0", Private),
        ("100.100.100.200", Private),
        ("100.127.255.255", Private),
        ("127.0.0.1", Loopback),
        ("127.255.255.255", Loopback),
        ("168.63.129.16", Metadata),
        ("169.254.0.0", LinkLocal),
        ("169.254.169.254", LinkLocal),
        ("172.16.0.0", Private),
        ("172.31.255.255", Private),
        ("192.0.0.192", Reserved),
        ("192.0.2.1", Reserved),
        ("192.88.99.1", Embedded),
        ("192.168.0.0", Private),
        ("192.168.255.255", Private),
        ("198.18.0.0", Reserved),
        ("198.19.255.255", Reserved),
        ("198.51.100.1", Reserved),
        ("203.0.113.1", Reserved),
        ("224.0.0.1", Multicast),
        ("239.255.255.255", Multicast),
        ("240.0.0.1", Reserved),
        ("255.255.255.255", Reserved),
        ("::", Unspecified),
        ("::1", Loopback),
        ("::2", Mapped),
        ("::7f00:1", Mapped),
        ("::ffff:8.8.8.8", Mapped),
        ("::ffff:127.0.0.1", Mapped),
        ("64:ff9b::8.8.8.8", Embedded),
        ("64:ff9b::a9fe:a9fe", Embedded),
        ("64:ff9b:1::1", Embedded),
        ("64:ff9b:2::1", Reserved),
        ("100::1", Reserved),
        ("1fff::1", Reserved),
        ("2001::1", Embedded),
        ("2001:1::1", Reserved),
        ("2001:1ff::1", Reserved),
        ("2001:db8::1", Reserved),
        ("2002::1", Embedded),
        ("2002:7f00:1::", Embedded),
        ("2002:808:808::1", Embedded),
        ("3fff::1", Reserved),
        ("3fff:fff::1", Reserved),
        ("4000::1", Reserved),
        ("5f00::1", Reserved),
        ("fc00::1", Private),
        ("fd00:ec2::254", Private),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("fec0::1", Private),
        ("ff02::1", Multicast),
    ] {
        assert_eq!(none.check_address(Transport::Tcp, address(text), 443), Err(kind), "{text}");
    }
    for public in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2001:db7::1",
        "2001:db9::1",
        "2003::1",
        "2606:4700::1111",
        "3ffe::1",
        "3fff:1000::1",
    ] {
        assert_eq!(none.check_address(Transport::Tcp, address(public), 443), Ok(()), "{public}");
    }
}

#[test]
fn grant_lifts_the_rule_only_within_a_block_and_at_its_port() {
    for (text, to, port, allowed) in [
        ("10.1.2.0/24:5432", "10.1.2.3", 5432, true),
        ("10.1.2.0/24:5432", "10.1.2.3", 5433, false),
        ("10.1.2.0/24:5432", "10.1.3.3", 5432, false),
        ("10.0.0.0/8:5432", "10.1.3.3", 5432, true),
        // A range around a block does not name the block.
        ("0.0.0.0/0:80", "169.254.169.254", 80, false),
        ("0.0.0.0/0:80", "127.0.0.1", 80, false),
        ("0.0.0.0/0:80", "8.8.8.8", 80, true),
        ("8.0.0.0/5:80", "10.0.0.1", 80, false),
        ("[::/0]:80", "::1", 80, false),
        ("[2000::/3]:80", "2001:db8::1", 80, false),
        ("169.254.169.254:80", "169.254.169.254", 80, true),
        ("127.0.0.0/8:80", "127.0.0.1", 80, true),
        // Two grants are needed: for the form, and for the address inside it.
        ("[64:ff9b::/96]:80", "64:ff9b::8.8.8.8", 80, true),
        ("[64:ff9b::/96]:80", "64:ff9b::169.254.169.254", 80, false),
        ("[64:ff9b::/96]:80,169.254.169.254:80", "64:ff9b::169.254.169.254", 80, true),
        ("[64:ff9b:1::/96]:80", "64:ff9b:1::10.0.0.1", 80, false),
        ("[2002::/16]:80", "2002:808:808::1", 80, true),
        ("[2002::/16]:80", "2002:a00:1::1", 80, false),
        ("[2001::/32]:80", "2001:0:1:2:3:4:f5ff:fffe", 80, false),
        ("[2001::/32]:80", "2001:0:1:2:3:4:f7f7:f7f7", 80, true),
        ("10.0.0.1:80", "::ffff:10.0.0.1", 80, false),
        ("[4000::1]:80", "4000::1", 80, true),
    ] {
        assert_eq!(grants(text).check_address(Transport::Tcp, address(to), port).is_ok(), allowed, "{text} to {to}:{port}");
    }
}

#[test]
fn own_address_is_named_by_itself_only() {
    let own = |text: &str, to: &str| grants(text).names_own_address(Transport::Tcp, address(to), 22);
    assert!(own("10.0.0.5:22", "10.0.0.5") && own("[2001:db8::5]:22", "2001:db8::5") && own("127.0.0.0/8:22", "127.0.0.1"));
    assert!(!own("10.0.0.0/24:22", "10.0.0.5") && !own("0.0.0.0/0:22", "127.0.0.1") && !own("10.0.0.5:23", "10.0.0.5"));
}

#[test]
fn inspection_is_needed_for_requests_inside_of_tls_only() {
    assert!(grants("a.example/GET:/x").need_inspection().is_some());
    assert!(grants("a.example:8443/tls/GET:/x").need_inspection().is_some());
    assert!(grants("a.example:80/GET:/x,b.example").need_inspection().is_none());
}

/// Texts that resemble grants.
fn near_grant() -> impl Strategy<Value = String> {
    let parts =
        ["a", "*", ".", "example", ":", "443", "/", "GET", "udp", "10.0.0.0", "24", "[", "]", "::1", "%2C", "..", "ü", ","];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..9).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn parsing_never_panics_and_the_text_form_is_stable(text in prop_oneof![near_grant(), "\\PC{0,40}"]) {
        if let Ok(parsed) = text.parse::<NetGrants>() {
            let again = parsed.iter().map(NetGrant::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(again.parse::<NetGrants>(), Ok(parsed), "{}", again);
        }
    }

    #[test]
    fn path_of_a_rule_is_decided_like_its_text_form(path in "/[a-c/%.;*0-9A-F]{0,12}", asked in "/[a-c/%.;0-9A-F]{0,12}") {
        if let Ok(rule) = RequestRule::new("GET", &path) {
            let text = rule.to_string();
            let again = RequestRule::new("GET", text.strip_prefix("GET:").unwrap()).unwrap();
            prop_assert_eq!(&again, &rule);
            prop_assert_eq!(again.allows("GET", asked.as_bytes()), rule.allows("GET", asked.as_bytes()));
        }
    }

    #[test]
    fn no_name_grant_makes_an_address_reachable(bits: u32, wide: u128) {
        let grants = grants("a.example,*.b.example:443/tcp");
        for address in [IpAddr::V4(Ipv4Addr::from_bits(bits)), IpAddr::V6(Ipv6Addr::from_bits(wide))] {
            prop_assert_eq!(grants.address(Transport::Tcp, address, 443), None);
            prop_assert_eq!(grants.check_address(Transport::Tcp, address, 443).is_err(), crate::address::special(address).is_some());
        }
    }
}
