//! Random identifiers.

use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// Returns 16 random bytes in hexadecimal digits: an identifier that nobody has, and that nobody can guess.
///
/// # Errors
/// The kernel has no random bytes.
pub fn random_id() -> io::Result<String> {
    let mut random = [0; 16];
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}
