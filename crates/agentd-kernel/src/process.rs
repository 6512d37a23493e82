//! Sessions, process groups and priorities of other processes, and signals that the C library reserves.

pub use crate::syscall::{
    processes::{process_group, session, set_reserved_signals},
    scheduling::keep_priority,
};
