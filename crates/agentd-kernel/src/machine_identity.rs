//! State that distinguishes a virtual machine from others restored from the same memory: random numbers, clock and host name.

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    time::{ClockId, Timespec},
};
use std::os::fd::AsFd;

pub use syscall::random::SEED;

/// Clock error up to which the clock is not set, in nanoseconds: programs notice a step of the time, but not a small error.
const TOLERANCE: u64 = 100_000_000;

/// Reseeds the kernel's random number generator (`random(4)`), so that no other machine generates the same numbers. Needs
/// `CAP_SYS_ADMIN`.
///
/// # Errors
/// The errno of opening `/dev/urandom`, or of its ioctls.
pub fn seed(seed: &[u8; SEED]) -> Result<(), ControlError> {
    let device = rustix::fs::open("/dev/urandom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during(Control::Process, || "open /dev/urandom".to_owned())?;
    syscall::random::seed_random(device.as_fd(), seed)
        .during(Control::Process, || "seed the kernel's random number generator".to_owned())
}

/// Sets the clock to `realtime_ns`, in nanoseconds since 1970, if the clock is off by more than 100 ms (`clock_settime(2)`).
/// Needs `CAP_SYS_TIME`.
///
/// # Errors
/// The errno of `clock_settime(2)`.
pub fn set_clock(realtime_ns: u64) -> Result<(), ControlError> {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let now = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0);
    if now.abs_diff(realtime_ns) <= TOLERANCE {
        return Ok(());
    }
    let seconds = i64::try_from(realtime_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::try_from(realtime_ns % 1_000_000_000).unwrap_or(0) };
    rustix::time::clock_settime(ClockId::Realtime, time).during(Control::Process, || "set the clock".to_owned())
}

/// Sets the host name in the UTS namespace of this process. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The errno of `sethostname(2)`.
pub fn set_host_name(name: &[u8]) -> Result<(), ControlError> {
    rustix::system::sethostname(name).during(Control::Namespaces, || "sethostname".to_owned())
}
