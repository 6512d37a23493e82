//! System calls and ioctls that no safe crate wraps, in one file for each kernel object. Each function checks the result and
//! returns the errno.

pub mod credentials;
pub mod descriptors;
pub mod files;
pub mod landlock;
pub mod loop_devices;
pub mod mounts;
pub mod network_namespace;
pub mod processes;
pub mod random;
pub mod scheduling;
pub mod seccomp;
pub mod sockets;
mod stack;
pub mod user_namespace;
pub mod vsock;

use rustix::io::Errno;

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    }
    Ok(result)
}
