//! Compressed layers of an image: decompression terminates within the size limits of a layer.
#![no_main]

use agentd_image::fuzz::compressed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    compressed(bytes).expect("no invariant is broken");
});
