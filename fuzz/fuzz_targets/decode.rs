//! Frames from the other side of a channel, cut and joined at random: whatever they are, decoding ends, never panics, takes no more
//! than a frame, and what it gives can be sent again.
#![no_main]

use agentd_supervisor::protocol::{self, Event, Order, Report, Request};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|bytes: &[u8]| {
    drain::<Event>(bytes, protocol::MAX_EVENT);
    drain::<Report>(bytes, protocol::MAX_EVENT);
    drain::<Request>(bytes, protocol::MAX_REQUEST);
    drain::<Order>(bytes, protocol::MAX_REQUEST);
});

fn drain<M: Serialize + DeserializeOwned + PartialEq>(mut bytes: &[u8], limit: usize) {
    while let Ok(Some((message, fds, taken))) = protocol::decode::<M>(bytes, limit) {
        assert!(taken > 0 && taken <= bytes.len() && taken <= limit + protocol::HEAD && fds <= protocol::MAX_FDS);
        let again = protocol::encode(&message, fds).expect("what was decoded can be encoded");
        let (same, ..) = protocol::decode::<M>(&again, usize::MAX).expect("and decoded again").expect("in whole");
        assert!(same == message);
        bytes = &bytes[taken..];
    }
}
