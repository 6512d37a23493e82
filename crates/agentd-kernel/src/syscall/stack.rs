//! Stacks for processes and threads that the C library does not know.

use std::mem::MaybeUninit;

/// A stack of 16 KiB, which suffices for a few system calls. Left uninitialised, because writing each page would cause a page
/// fault.
pub type Stack = Box<[MaybeUninit<u128>]>;

pub fn stack() -> Stack {
    Box::new_uninit_slice((16 << 10) / size_of::<u128>())
}
