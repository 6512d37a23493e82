//! The raw sockets that receive the attempts of a sandbox to connect, and their filters.
//!
//! A raw socket receives each packet of its protocol that arrives in the namespace (`raw(7)`), even if the kernel refuses the
//! packet. A packet socket would receive the same packets, but binding and closing a packet socket waits for all processors
//! (`synchronize_net`).

use super::OWN_V4;
use crate::syscall::sockets::filtered_raw_socket;
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, ipproto},
};
use std::os::fd::OwnedFd;

const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE_AFTER_X: u16 = 0x50;
const HEADER_LENGTH_TO_X: u16 = 0xb1;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// SKF_NET_OFF (`linux/filter.h`): an offset that is added to this value counts from the network header.
const NETWORK_HEADER: u32 = 0xfff0_0000;
/// The flags SYN and ACK of TCP.
const FLAGS: u32 = 0x12;
const SYN: u32 = 0x02;
/// The number of bytes of a packet that are kept: enough for the longest header of IPv4, and the ports.
const SNAP_LENGTH: u32 = 64;

/// A step of a filter.
#[derive(Clone, Copy)]
enum FilterStep {
    Do(u16, u32),
    DropIf(u32),
    DropUnless(u32),
}

use FilterStep::{Do, DropIf, DropUnless};

/// Drops packets to the loopback or to the sandbox's own address. A raw socket of IPv4 receives packets that begin with the
/// network header.
const TO_OTHERS_V4: &[FilterStep] = &[Do(LOAD_BYTE, 16), DropIf(127), Do(LOAD_WORD, 16), DropIf(OWN_V4.to_bits())];
/// Drops packets to the loopback, whose address begins with 32 zero bits. A raw socket of IPv6 receives packets that begin with
/// the header of TCP or UDP.
const TO_OTHERS_V6: &[FilterStep] = &[Do(LOAD_WORD, NETWORK_HEADER + 24), DropIf(0)];
/// Keeps the first packet of a connection.
const FIRST_V4: &[FilterStep] = &[Do(HEADER_LENGTH_TO_X, 0), Do(LOAD_BYTE_AFTER_X, 13), Do(AND, FLAGS), DropUnless(SYN)];
const FIRST_V6: &[FilterStep] = &[Do(LOAD_BYTE, 13), Do(AND, FLAGS), DropUnless(SYN)];

/// Creates the sockets of a family. The first socket receives the first packet of each TCP connection, and the second one
/// receives UDP datagrams. Both drop packets to the sandbox itself, and keep only the start of a packet. Needs CAP_NET_RAW in the
/// namespace.
pub(super) fn sockets(family: AddressFamily) -> Result<[OwnedFd; 2], Errno> {
    let (to_others, first) = if family == AddressFamily::INET { (TO_OTHERS_V4, FIRST_V4) } else { (TO_OTHERS_V6, FIRST_V6) };
    let socket =
        |protocol: Protocol, steps: &[&[FilterStep]]| filtered_raw_socket(family, protocol, &mut filter(&steps.concat()));
    Ok([socket(ipproto::TCP, &[to_others, first])?, socket(ipproto::UDP, &[to_others])?])
}

/// Encodes the steps (`Documentation/networking/filter.rst`). The filter ends with two instructions: keep and drop.
fn filter(steps: &[FilterStep]) -> Vec<libc::sock_filter> {
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Encodes the last step first. A jump skips the steps after its own step, and the instruction that keeps the packet.
    let mut program = vec![instruction(RETURN, 0, 0, 0), instruction(RETURN, 0, 0, SNAP_LENGTH)];
    program.extend((1_u8..).zip(steps.iter().rev()).map(|(skipped, step)| match *step {
        Do(code, k) => instruction(code, 0, 0, k),
        DropIf(k) => instruction(EQUAL, skipped, 0, k),
        DropUnless(k) => instruction(EQUAL, 0, skipped, k),
    }));
    program.reverse();
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_steps_jump_to_the_last_instruction() {
        for steps in [TO_OTHERS_V4, TO_OTHERS_V6, &[TO_OTHERS_V4, FIRST_V4].concat(), &[TO_OTHERS_V6, FIRST_V6].concat()] {
            let filter = filter(steps);
            assert_eq!(filter.len(), steps.len() + 2);
            for (at, instruction) in filter.iter().enumerate().filter(|(_, instruction)| instruction.code == EQUAL) {
                assert_eq!(at + 1 + usize::from(instruction.jt.max(instruction.jf)), filter.len() - 1);
            }
            assert_eq!(filter[filter.len() - 2..].iter().map(|end| end.k).collect::<Vec<_>>(), [SNAP_LENGTH, 0]);
        }
    }
}
