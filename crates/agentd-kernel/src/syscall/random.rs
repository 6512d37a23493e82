//! The kernel's random number generator (`random(4)`).

use super::check;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` (`random(4)`).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// Size of a seed in bytes.
pub const SEED: usize = 32;
const SEED_BYTES: libc::c_int = 32;

/// Mixes `seed` into the kernel's entropy pool, credits it as entropy, and reseeds the generator from the pool. Needs
/// `CAP_SYS_ADMIN`.
pub fn seed_random(device: BorrowedFd<'_>, seed: &[u8; SEED]) -> Result<(), Errno> {
    /// `struct rand_pool_info`.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        bytes: libc::c_int,
        seed: [u8; SEED],
    }
    let pool = Pool { bits: 8 * SEED_BYTES, bytes: SEED_BYTES, seed: *seed };
    // SAFETY: `pool` has the layout of the kernel's structure, states its own length, and lives across the call.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) }))?;
    // SAFETY: this ioctl takes no argument.
    check(libc::c_long::from(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }))?;
    Ok(())
}
