//! Connects to the first of several addresses that answers (RFC 8305, "Happy Eyeballs").

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

/// The maximum number of addresses that are tried.
pub(crate) const MAX_ADDRESSES: usize = 8;
/// The delay before the next address is tried, while the earlier attempts continue (RFC 8305, 5).
const NEXT_ATTEMPT: Duration = Duration::from_millis(250);

/// Connects to one of the addresses.
///
/// # Errors
/// The error of the last attempt, if all failed.
pub(crate) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut left = VecDeque::from(interleave(addresses));
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match left.pop_front() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended.map_err(io::Error::other).flatten() {
                Ok(connected) => {
                    // Small writes must leave at once. If the call fails, the connection has ended already.
                    let _ = connected.set_nodelay(true);
                    return Ok(connected);
                }
                Err(error) => last = error,
            },
            () = sleep(NEXT_ATTEMPT), if !left.is_empty() => {}
        }
    }
}

/// Orders the addresses so that the families alternate, beginning with the family that the resolver prefers (RFC 8305, 4).
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address: &SocketAddr| address.is_ipv4() == first.is_ipv4());
    let mut other = other.into_iter();
    let mut preferred = preferred.into_iter();
    let mut ordered = Vec::new();
    while ordered.len() < MAX_ADDRESSES {
        match (preferred.next(), other.next()) {
            (None, None) => break,
            (a, b) => ordered.extend(a.into_iter().chain(b)),
        }
    }
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_the_number_of_attempts_is_bounded() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let ordered = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleave(&mixed), ordered);
        assert_eq!(interleave(&[]), []);
        let many: Vec<SocketAddr> = (1..50).map(|port| ([1, 0, 0, 1], port).into()).collect();
        assert_eq!(interleave(&many), many[..MAX_ADDRESSES]);
    }

    #[tokio::test]
    async fn address_that_answers_is_found_behind_those_that_do_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = |host: [u8; 4]| {
            let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::from(host), 0)).unwrap();
            listener.local_addr().unwrap()
        };
        let bad = [closed([127, 0, 0, 2]), closed([127, 0, 0, 3])];
        let connected = connect(&[bad[0], bad[1], good]).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap(), good);
        assert_eq!(connect(&bad).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&[]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
