//! The version of Landlock.

/// Returns the Landlock ABI version of this kernel, 0 for none (`landlock_create_ruleset(2)`, `LANDLOCK_CREATE_RULESET_VERSION`).
pub fn landlock_abi() -> i32 {
    // SAFETY: with the version flag the kernel reads no memory of this process.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    i32::try_from(abi).unwrap_or(0).max(0)
}
