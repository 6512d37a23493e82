//! Arbitrary bytes from the peer of a channel: decoding terminates, does not panic, and consumes at most one frame. A decoded
//! message can be encoded and decoded again without a change.
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
        let again = protocol::encode(&message, fds).expect("a decoded message can be encoded");
        let (same, ..) = protocol::decode::<M>(&again, usize::MAX)
            .expect("the encoded message can be decoded")
            .expect("the encoded message is complete");
        assert!(same == message);
        bytes = &bytes[taken..];
    }
}
