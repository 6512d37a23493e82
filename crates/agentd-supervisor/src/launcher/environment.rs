//! The environment of a launcher that was forked.

/// Overwrites the environment that the kernel gave to this program. The environment may contain secrets, and the first process of
/// each sandbox is a copy of this process. The launcher reads no variable: a launcher that was executed, not forked, has an empty
/// environment.
pub(super) fn forget() {
    // SAFETY: the C library defines this variable with this type (`environ(7)`).
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    let here = 0_u8;
    // SAFETY: this process has one thread. `environ` is null or an array of C strings that ends with a null pointer
    // (`environ(7)`). Strings above the current frame of the main thread are those that the kernel copied, in the writable memory
    // of the stack (`execve(2)`). A string elsewhere was set by the program, and may not be writable.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            let text = *next;
            if text.addr() > (&raw const here).addr() {
                text.write_bytes(0, libc::strlen(text));
            }
            next = next.add(1);
        }
    }
}
