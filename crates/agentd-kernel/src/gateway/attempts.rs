//! The filter of the packet socket that receives the attempts of a sandbox to connect.

use std::net::Ipv4Addr;

const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE_AFTER_X: u16 = 0x50;
const HEADER_LENGTH_TO_X: u16 = 0xb1;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// SKF_AD_OFF with SKF_AD_PKTTYPE and SKF_AD_PROTOCOL (`linux/filter.h`).
const PACKET_TYPE: u32 = 0xffff_f004;
const PROTOCOL: u32 = 0xffff_f000;
const OUTGOING: u32 = 4;
const FLAGS: u32 = 0x12;
const SYN: u32 = 0x02;
const ACCEPT: u8 = 24;
const DROP: u8 = 25;
const V6: u8 = 15;

/// Returns a filter for packets from the network header on (`Documentation/networking/filter.rst`). The filter keeps 64 bytes of
/// each packet. It accepts the first packet of a TCP connection, and UDP datagrams, unless the destination is a loopback address
/// or `own`. `lo` delivers each packet as outgoing and as incoming; the filter accepts only incoming ones.
pub(super) fn filter(own: Ipv4Addr) -> [libc::sock_filter; 26] {
    // The targets of a jump are indices of this list.
    let program: [(u16, u32, u8, u8); 26] = [
        (LOAD_BYTE, PACKET_TYPE, 0, 0),
        (EQUAL, OUTGOING, DROP, 2),
        (LOAD_HALF, PROTOCOL, 0, 0),
        (EQUAL, 0x0800, 4, V6),
        // IPv4, if the destination is a loopback address or the sandbox's own.
        (LOAD_BYTE, 16, 0, 0),
        (EQUAL, 127, DROP, 6),
        (LOAD_WORD, 16, 0, 0),
        (EQUAL, own.to_bits(), DROP, 8),
        (LOAD_BYTE, 9, 0, 0),
        (EQUAL, 17, ACCEPT, 10),
        (EQUAL, 6, 11, DROP),
        (HEADER_LENGTH_TO_X, 0, 0, 0),
        (LOAD_BYTE_AFTER_X, 13, 0, 0),
        (AND, FLAGS, 0, 0),
        (EQUAL, SYN, ACCEPT, DROP),
        // IPv6. The loopback address starts with zeros.
        (EQUAL, 0x86dd, 16, DROP),
        (LOAD_WORD, 24, 0, 0),
        (EQUAL, 0, DROP, 18),
        (LOAD_BYTE, 6, 0, 0),
        (EQUAL, 17, ACCEPT, 20),
        (EQUAL, 6, 21, DROP),
        (LOAD_BYTE, 53, 0, 0),
        (AND, FLAGS, 0, 0),
        (EQUAL, SYN, ACCEPT, DROP),
        (RETURN, 64, 0, 0),
        (RETURN, 0, 0, 0),
    ];
    let mut at = 0_u8;
    program.map(|(code, k, then, otherwise)| {
        at += 1;
        let (jt, jf) = if code == EQUAL { (then - at, otherwise - at) } else { (0, 0) };
        libc::sock_filter { code, jt, jf, k }
    })
}
