//! What tells a machine from others that were made of the same memory: its host name, its clock, its random numbers.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{Mode, OFlags},
    time::{ClockId, Timespec},
};
use std::os::fd::AsFd;

pub use syscall::SEED;

/// By how much a clock may be wrong before it is set: a step of the time is noticed by programs, a small error is not. Nanoseconds.
const TOLERANCE: u64 = 100_000_000;

/// Seeds the kernel's random numbers anew (`random(4)`), so that no other machine draws the same ones. Needs `CAP_SYS_ADMIN`.
pub fn seed(seed: &[u8; SEED]) -> Result<(), LayerError> {
    let device = rustix::fs::open("/dev/urandom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Process, || "open /dev/urandom".to_owned())?;
    syscall::seed_random(device.as_fd(), seed).at(Layer::Process, || "seed the kernel's random numbers".to_owned())
}

/// Sets the clock to so many nanoseconds since 1970, where it is wrong (`clock_settime(2)`). Needs `CAP_SYS_TIME`.
pub fn set_clock(realtime_ns: u64) -> Result<(), LayerError> {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let now = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0);
    if now.abs_diff(realtime_ns) <= TOLERANCE {
        return Ok(());
    }
    let seconds = i64::try_from(realtime_ns / 1_000_000_000).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::try_from(realtime_ns % 1_000_000_000).unwrap_or(0) };
    rustix::time::clock_settime(ClockId::Realtime, time).at(Layer::Process, || "set the clock".to_owned())
}

/// Sets the host name of this process's own namespace. Needs `CAP_SYS_ADMIN`.
pub fn set_host_name(name: &[u8]) -> Result<(), LayerError> {
    rustix::system::sethostname(name).at(Layer::Namespaces, || "sethostname".to_owned())
}
