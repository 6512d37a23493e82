//! Scheduling of threads, and the processors that they may run on.

use super::check;
use rustix::io::Errno;

/// Sets the nice value of a thread to its current value. `EPERM` if the thread has neither the real nor the effective user id of
/// the caller (`setpriority(2)`).
pub fn keep_priority(thread: i32) -> Result<(), Errno> {
    let target = libc::c_long::from(thread);
    let process = libc::c_long::from(libc::PRIO_PROCESS);
    // SAFETY: integers only. The system call returns 20 minus the nice value.
    let nice = 20 - check(unsafe { libc::syscall(libc::SYS_getpriority, process, target) })?;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setpriority, process, target, nice) })?;
    Ok(())
}

/// Makes a call that changes scheduling. `input` replaces the pointer argument with that index.
pub fn reschedule(number: libc::c_long, mut arguments: [u64; 3], input: Option<(usize, &mut [u8])>) -> Result<(), Errno> {
    if let Some((index, content)) = input {
        arguments[index] = content.as_mut_ptr() as u64;
    }
    let [first, second, third] = arguments;
    // SAFETY: each pointer argument points to a buffer that lives across the call. The kernel accesses at most the length that is
    // passed for a mask, the size of `struct sched_param`, or the size field of `struct sched_attr`. The flags are 0.
    check(unsafe { libc::syscall(number, first, second, third) })?;
    Ok(())
}

/// Size of a processor mask in words: sufficient for most kernels, and an upper bound that no kernel reaches (`CONFIG_NR_CPUS`).
const MASK_WORDS: usize = 1024 / libc::c_ulong::BITS as usize;
const MAX_MASK_WORDS: usize = 64 * MASK_WORDS;

/// Returns the processors that this process may run on (`sched_getaffinity(2)`), in ascending order.
pub fn affinity() -> Result<Vec<usize>, Errno> {
    affinity_from(MASK_WORDS)
}

/// Implements [`affinity`], with an initial mask of `words` words. The kernel returns `EINVAL` for a mask shorter than its own.
fn affinity_from(mut words: usize) -> Result<Vec<usize>, Errno> {
    loop {
        let mut mask: Vec<libc::c_ulong> = vec![0; words];
        // SAFETY: the kernel writes at most the size of `mask`, which is passed, and every content is valid.
        let got = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(mask.as_slice()), mask.as_mut_ptr()) };
        match check(got) {
            Err(Errno::INVAL) if words < MAX_MASK_WORDS => words = (2 * words).max(1),
            got => return got.map(|_| numbers(&mask)),
        }
    }
}

/// Returns the positions of the set bits.
fn numbers(mask: &[libc::c_ulong]) -> Vec<usize> {
    let word = libc::c_ulong::BITS as usize;
    (0..mask.len() * word).filter(|number| mask[number / word] >> (number % word) & 1 == 1).collect()
}

/// Restricts this process and its future children to `processors` (`sched_setaffinity(2)`).
pub fn set_affinity(processors: &[usize]) -> Result<(), Errno> {
    let mask = mask(processors);
    // SAFETY: the kernel reads at most the size of `mask`, which is passed.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask.as_slice()), mask.as_ptr()) })?;
    Ok(())
}

/// Returns a mask with the bits at these positions set.
fn mask(processors: &[usize]) -> Vec<libc::c_ulong> {
    let word = libc::c_ulong::BITS as usize;
    let mut mask = vec![0; processors.iter().max().map_or(0, |last| last / word + 1)];
    processors.iter().for_each(|number| mask[number / word] |= 1 << (number % word));
    mask
}

/// Moves a new thread away from the current processor, on which the caller continues to work. Otherwise the scheduler might queue
/// the thread here, if it still considers the other processors busy. Does nothing if there is only one processor.
pub fn leave_this_processor(pid: libc::pid_t) {
    let Ok(mut others) = rustix::thread::sched_getaffinity(None) else { return };
    others.unset(rustix::thread::sched_getcpu());
    if others.count() > 0 {
        // A failure costs speed only.
        rustix::thread::sched_setaffinity(rustix::process::Pid::from_raw(pid), &others).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_with_too_short_first_mask_is_complete() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let expected: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number)).collect();
        assert_eq!(affinity_from(0).unwrap(), expected);
        assert_eq!(affinity_from(MAX_MASK_WORDS).unwrap(), expected);
    }

    #[test]
    fn affinity_mask_covers_processors_beyond_1024() {
        assert_eq!(numbers(&mask(&[0, 63, 64, 1024, 4097])), [0, 63, 64, 1024, 4097]);
        assert_eq!(mask(&[]), []);
    }
}
