//! Changes of another thread's scheduling: `setpriority(2)`, `ioprio_set(2)`, `sched_setaffinity(2)`, `sched_setattr(2)`,
//! `sched_setparam(2)` and `sched_setscheduler(2)`.

use super::{
    arguments,
    notify::{Call, low},
};
use crate::syscall;
use rustix::io::Errno;

/// The maximum length of a processor mask that is read, in bytes. The kernel ignores the bits above its number of processors,
/// 8192 at most.
const MAX_MASK: usize = 1024;
/// The minimum and maximum size of `struct sched_attr` that the kernel accepts, in bytes (`SCHED_ATTR_SIZE_VER0`, one page).
const SHORTEST_ATTR: usize = 48;
const MAX_ATTR: usize = 4096;

/// The processes that a call changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One thread.
    Thread(i32),
    /// All processes of a process group.
    Group(i32),
}

/// The memory of the caller that a call reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    None,
    /// The argument with this number points to this many bytes.
    Bytes(usize, usize),
    /// The argument with this number points to a `struct sched_attr`, whose first word is its size.
    Attr(usize),
}

/// A change of scheduling, as the calling thread requested it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reschedule {
    number: libc::c_long,
    arguments: [u64; 3],
    /// The target.
    pub scope: Scope,
    input: Input,
}

/// A change of scheduling that depends on no memory of the caller.
#[derive(Debug)]
pub struct PreparedReschedule {
    call: Reschedule,
    input: Option<(usize, Vec<u8>)>,
}

impl Reschedule {
    /// Decodes a call. The kernel uses the lower 32 bits of the ids and of the length of a mask.
    pub(super) fn decode(call: &libc::seccomp_data) -> Option<Self> {
        let number = libc::c_long::from(call.nr);
        let argument = |index: usize| low(call.args[index]);
        let id = |index: usize| argument(index).cast_signed();
        let parameters = size_of::<libc::sched_param>();
        let (scope, input) = match number {
            libc::SYS_setpriority => (target(argument(0), [libc::PRIO_PROCESS, libc::PRIO_PGRP], id(1))?, Input::None),
            libc::SYS_ioprio_set => {
                (target(argument(0), [arguments::IOPRIO_WHO_PROCESS, arguments::IOPRIO_WHO_PGRP], id(1))?, Input::None)
            }
            libc::SYS_sched_setaffinity => {
                let length = usize::try_from(argument(1)).unwrap_or(MAX_MASK).min(MAX_MASK);
                (Scope::Thread(id(0)), Input::Bytes(2, length))
            }
            libc::SYS_sched_setparam => (Scope::Thread(id(0)), Input::Bytes(1, parameters)),
            libc::SYS_sched_setscheduler => (Scope::Thread(id(0)), Input::Bytes(2, parameters)),
            libc::SYS_sched_setattr => (Scope::Thread(id(0)), Input::Attr(1)),
            _ => return None,
        };
        let [first, second, third, ..] = call.args;
        Some(Self { number, arguments: [first, second, third], scope, input })
    }

    /// Reads the parts of the caller's memory that the call needs.
    ///
    /// # Errors
    /// The errno of `process_vm_readv(2)`, `EFAULT` for memory that is not mapped, or `E2BIG` for a `struct sched_attr` of a size
    /// that the kernel does not accept.
    pub fn prepare(self, call: &Call) -> Result<PreparedReschedule, Errno> {
        let (argument, length) = match self.input {
            Input::None => return Ok(PreparedReschedule { call: self, input: None }),
            Input::Bytes(argument, length) => (argument, length),
            Input::Attr(argument) => {
                let mut size = [0; 4];
                read(call, self.arguments[argument], &mut size)?;
                (argument, attr_length(u32::from_ne_bytes(size))?)
            }
        };
        let mut content = vec![0; length];
        read(call, self.arguments[argument], &mut content)?;
        if let (Input::Attr(_), Ok(size)) = (self.input, u32::try_from(length)) {
            // The caller may have changed the size after the first read. A greater one would exceed the buffer.
            content[..size_of::<u32>()].copy_from_slice(&size.to_ne_bytes());
        }
        Ok(PreparedReschedule { call: self, input: Some((argument, content)) })
    }
}

impl PreparedReschedule {
    /// Performs the call with the credentials of this thread.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn perform(mut self) -> Result<(), Errno> {
        let Reschedule { number, mut arguments, .. } = self.call;
        if let (Input::Bytes(2, length), libc::SYS_sched_setaffinity) = (self.call.input, number) {
            arguments[1] = length as u64;
        }
        let input = self.input.as_mut().map(|(argument, content)| (*argument, content.as_mut_slice()));
        syscall::scheduling::reschedule(number, arguments, input)
    }
}

fn target(kind: u32, [process, group]: [u32; 2], id: i32) -> Option<Scope> {
    match kind {
        _ if kind == process => Some(Scope::Thread(id)),
        _ if kind == group => Some(Scope::Group(id)),
        _ => None,
    }
}

/// Returns the length of a `struct sched_attr` with this size field; 0 means the shortest.
fn attr_length(size: u32) -> Result<usize, Errno> {
    match usize::try_from(size).unwrap_or(usize::MAX) {
        0 => Ok(SHORTEST_ATTR),
        size @ SHORTEST_ATTR..=MAX_ATTR => Ok(size),
        _ => Err(Errno::TOOBIG),
    }
}

fn read(call: &Call, address: u64, content: &mut [u8]) -> Result<(), Errno> {
    if content.is_empty() || call.read_memory(address, content)? == content.len() { Ok(()) } else { Err(Errno::FAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(number: libc::c_long, args: [u64; 6]) -> Option<Reschedule> {
        let nr = i32::try_from(number).unwrap();
        Reschedule::decode(&libc::seccomp_data { nr, arch: 0, instruction_pointer: 0, args })
    }

    #[test]
    fn scope_of_each_call_is_that_of_the_kernel() {
        let high = 7 << 32;
        for (number, args, scope) in [
            (libc::SYS_setpriority, [high, high | 5, 0, 0, 0, 0], Some(Scope::Thread(5))),
            (libc::SYS_setpriority, [1, 5, 0, 0, 0, 0], Some(Scope::Group(5))),
            (libc::SYS_setpriority, [2, 0, 0, 0, 0, 0], None),
            (libc::SYS_ioprio_set, [1, 5, 0, 0, 0, 0], Some(Scope::Thread(5))),
            (libc::SYS_ioprio_set, [2, 5, 0, 0, 0, 0], Some(Scope::Group(5))),
            (libc::SYS_ioprio_set, [3, 0, 0, 0, 0, 0], None),
            (libc::SYS_sched_setaffinity, [high | 0xffff_ffff, 8, 1, 0, 0, 0], Some(Scope::Thread(-1))),
            (libc::SYS_sched_setattr, [5, 1, 0, 0, 0, 0], Some(Scope::Thread(5))),
            (libc::SYS_sched_getaffinity, [5, 1, 0, 0, 0, 0], None),
        ] {
            assert_eq!(decoded(number, args).map(|call| call.scope), scope, "{number} {args:?}");
        }
    }

    #[test]
    fn sched_attr_with_length_outside_kernel_limits_is_refused() {
        let mask = decoded(libc::SYS_sched_setaffinity, [1, u64::MAX, 1, 0, 0, 0]).unwrap();
        assert_eq!(mask.input, Input::Bytes(2, MAX_MASK));
        assert_eq!(attr_length(0), Ok(48));
        assert_eq!(attr_length(4096), Ok(4096));
        assert_eq!(attr_length(47), Err(Errno::TOOBIG));
        assert_eq!(attr_length(u32::MAX), Err(Errno::TOOBIG));
    }
}
