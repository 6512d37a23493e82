//! A12: ways around the gateway to granted hosts.
//!
//! The sandbox has a network grant for one address and port of the host. Servers of the probe listen there, at another address
//! and at another port. Each server sends a byte to its clients.

use crate::check::{BUG, Check, Facts, Verdict, broken_if, first};
use agentd_core::Claim::Egress;
use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a12_reach_an_address_without_a_grant", claim: Egress, remedy: BUG, run: other_address },
    Check { name: "a12_reach_another_port_of_a_granted_address", claim: Egress, remedy: BUG, run: other_port },
    Check { name: "a12_send_a_datagram", claim: Egress, remedy: BUG, run: datagram },
    Check { name: "a12_find_a_name_without_a_grant", claim: Egress, remedy: BUG, run: name },
];

/// The fact with the granted address.
pub(crate) const GRANTED: &str = "granted";

/// The gateway's name server. The gateway answers on port 53 of every address.
const NAME_SERVER: &str = "198.18.0.1:53";
/// A name without a network grant. Every resolver of a host finds this name.
const OTHER_NAME: &str = "localhost";
/// The time after which a query is sent again, because a datagram may be lost.
const RESEND: Duration = Duration::from_secs(1);
/// The maximum number of times that a query is sent.
const ATTEMPTS: usize = 4;

/// Returns true if a server answers at the address.
fn answers(address: SocketAddr) -> io::Result<bool> {
    Ok(TcpStream::connect(address)?.read(&mut [0])? > 0)
}

fn address(facts: &Facts, fact: &str) -> Result<SocketAddr, Verdict> {
    facts.get(fact)?.parse().map_err(|_| Verdict::NotTried(format!("the fact {fact} is not an address")))
}

/// Tries to reach addresses without a network grant. First connects to the granted address: if the gateway also refuses this
/// connection, its other refusals prove nothing.
fn unreachable(facts: &Facts, attempts: impl FnOnce(SocketAddr) -> Result<Vec<SocketAddr>, Verdict>) -> Verdict {
    let tried = || {
        let granted = address(facts, GRANTED)?;
        match answers(granted) {
            Ok(true) => attempts(granted),
            Ok(false) => Err(Verdict::NotTried(format!("the granted address {granted} did not answer"))),
            Err(error) => Err(Verdict::NotTried(format!("connect to the granted address {granted}: {error}"))),
        }
    };
    match tried() {
        Ok(attempts) => first(attempts.into_iter().map(|to| {
            let reached = answers(to).is_ok_and(|answered| answered);
            broken_if(reached, || format!("reached {to}"))
        })),
        Err(verdict) => verdict,
    }
}

fn other_address(facts: &Facts) -> Verdict {
    unreachable(facts, |granted| {
        let another = address(facts, "other_address")?;
        // A metadata service, and addresses for documentation (RFC 5737, RFC 3849).
        let others = ["169.254.169.254", "::1", "192.0.2.1", "2001:db8::1"].into_iter().filter_map(|host| host.parse().ok());
        let others = others.map(|ip: IpAddr| SocketAddr::new(ip, granted.port()));
        Ok([another].into_iter().chain(others).collect())
    })
}

fn other_port(facts: &Facts) -> Verdict {
    unreachable(facts, |_| Ok(vec![address(facts, "other_port")?]))
}

/// Sends a datagram. The probe checks outside whether the datagram arrived.
fn datagram(facts: &Facts) -> Verdict {
    let sent = address(facts, "datagrams").map(|to| UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", to)));
    match sent {
        Ok(Ok(_)) => Verdict::Held,
        Ok(Err(error)) => Verdict::NotTried(format!("send a datagram: {error}")),
        Err(verdict) => verdict,
    }
}

fn name(facts: &Facts) -> Verdict {
    let found = |name: &str| match is_found(name) {
        Ok(found) => Ok(found),
        Err(error) => Err(Verdict::NotTried(format!("look up {name} through the gateway: {error}"))),
    };
    let tried = || {
        let granted = facts.get("name")?;
        if !found(granted)? {
            return Err(Verdict::NotTried(format!("the gateway did not find the granted name {granted}")));
        }
        found(OTHER_NAME)
    };
    match tried() {
        Ok(found) => broken_if(found, || format!("found an address of {OTHER_NAME}")),
        Err(verdict) => verdict,
    }
}

/// Queries the gateway for an IPv4 address of the name (RFC 1035). Returns true if the gateway returns an address.
fn is_found(name: &str) -> io::Result<bool> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(NAME_SERVER)?;
    socket.set_read_timeout(Some(RESEND))?;
    let mut answer = [0; 512];
    let mut received = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..ATTEMPTS {
        socket.send(&query)?;
        received = socket.recv(&mut answer);
        if received.is_ok() {
            break;
        }
    }
    // Bytes 6 and 7 are the number of answers.
    if received? < 8 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer[6..8] != [0, 0]) }
}
