//! The frequency of the time-stamp counter, which an emulated machine sees unchanged.

use std::{
    arch::x86_64::_rdtsc,
    thread,
    time::{Duration, Instant},
};

/// The time over which the frequency is measured.
const INTERVAL: Duration = Duration::from_millis(50);

/// The number of readings, the fastest of which is used.
const READINGS: usize = 20;

/// Measures the frequency of this host's time-stamp counter, in kHz.
pub fn khz() -> u64 {
    let (begin, first) = read();
    thread::sleep(INTERVAL);
    let (end, second) = read();
    let nanoseconds = end.duration_since(begin).as_nanos();
    let ticks = u128::from(second.wrapping_sub(first));
    u64::try_from(ticks * 1_000_000 / nanoseconds.max(1)).unwrap_or(u64::MAX)
}

/// Reads clock and counter at the same moment: a reading during which this thread did not run is not used.
fn read() -> (Instant, u64) {
    let reading = || {
        let before = Instant::now();
        // SAFETY: every x86-64 processor has the instruction; it only writes two registers (Intel SDM vol. 2, RDTSC).
        let ticks = unsafe { _rdtsc() };
        (before.elapsed(), before, ticks)
    };
    let readings = (0..READINGS).map(|_| reading());
    let (_, time, ticks) = readings.min_by_key(|(took, ..)| *took).unwrap_or_else(reading);
    (time, ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_frequency_predicts_the_counter() {
        let khz = khz();
        let (begin, first) = read();
        thread::sleep(Duration::from_millis(200));
        let (end, second) = read();
        let measured = u128::from(second - first) * 1_000_000 / end.duration_since(begin).as_nanos();
        let off = measured.abs_diff(u128::from(khz));
        assert!(off * 1000 < u128::from(khz), "{khz} kHz, then {measured} kHz");
    }
}
