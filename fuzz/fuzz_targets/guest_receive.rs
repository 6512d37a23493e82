//! Applies changes of a copied grant, as sent by a guest, to a directory: no file outside the directory and no protected file in
//! it changes.
#![no_main]

mod place;

use agentd_guest::fuzz::receive;
use libfuzzer_sys::fuzz_target;
use place::UnpackDir;

fuzz_target!(|bytes: &[u8]| {
    let place = UnpackDir::new();
    std::fs::write(place.inside.join("protected"), "kept").expect("create a file");
    receive(bytes, &place.inside).expect("no invariant is broken");
    assert_eq!(std::fs::read(place.inside.join("protected")).expect("the protected file exists"), b"kept");
    place.check();
});
