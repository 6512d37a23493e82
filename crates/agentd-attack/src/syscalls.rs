//! A2, A13: system calls that reach the kernel past the usual interfaces. With the arguments used here, an unfiltered kernel
//! returns a result other than `EPERM` to an unprivileged user: success, or an errno which shows that the kernel has examined the
//! arguments.

use crate::{
    check::{Check, Facts, Verdict, broken_if, first},
    sys,
};
use agentd_core::Claim::Syscalls;

const FILTER: &str = "boot a kernel with CONFIG_SECCOMP_FILTER; in an outer sandbox, allow seccomp(2)";

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a2_create_a_namespace", claim: Syscalls, remedy: FILTER, run: namespaces },
    Check { name: "a2_make_dangerous_system_calls", claim: Syscalls, remedy: FILTER, run: dangerous },
    Check { name: "a2_call_through_the_32_bit_entry", claim: Syscalls, remedy: FILTER, run: interrupt },
    Check { name: "a2_call_through_the_x32_entry", claim: Syscalls, remedy: FILTER, run: x32 },
    Check { name: "a2_inject_input_into_a_terminal", claim: Syscalls, remedy: FILTER, run: terminal },
];

/// Returns whether a seccomp filter refused the call.
fn filtered(errno: i32) -> bool {
    matches!(errno, libc::EPERM | libc::ENOSYS)
}

fn namespaces(_: &Facts) -> Verdict {
    let user = libc::CLONE_NEWUSER.unsigned_abs() as usize;
    let signal = libc::SIGCHLD.unsigned_abs() as usize;
    first([
        broken_if(!filtered(sys::call(libc::SYS_unshare, [user, 0, 0, 0, 0])), || {
            "unshare(2) of the user namespace reached the kernel".to_owned()
        }),
        broken_if(!filtered(sys::call_forking(libc::SYS_clone, [user | signal, 0, 0, 0, 0])), || {
            "clone(2) of a user namespace reached the kernel".to_owned()
        }),
        // A filter cannot read the flags of clone3, which are in memory, so the call must not be available.
        broken_if(sys::call(libc::SYS_clone3, [0; 5]) != libc::ENOSYS, || "clone3(2) reached the kernel".to_owned()),
    ])
}

fn dangerous(_: &Facts) -> Verdict {
    const BAD: usize = usize::MAX;
    let calls: &[(&str, libc::c_long, [usize; 5])] = &[
        ("mount", libc::SYS_mount, [0, 0, 0, 0, 0]),
        ("umount2", libc::SYS_umount2, [0, 0, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [0, 0, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [0, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [BAD, 0, 0, 0, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0, 17, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [BAD, 0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [BAD, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, BAD - 2, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [0, 0, 0, 0, 0]),
        ("request_key", libc::SYS_request_key, [0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [BAD, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, [BAD, 0, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [BAD, 0, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [BAD, 0, BAD, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [0, 0, 0, 0, 0]),
        ("mount_setattr", libc::SYS_mount_setattr, [BAD, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [BAD, 0, 0, 0, 0]),
        ("personality", libc::SYS_personality, [0x0040_0000, 0, 0, 0, 0]),
        ("fanotify_init", libc::SYS_fanotify_init, [0x200, 0, 0, 0, 0]),
    ];
    first(
        calls
            .iter()
            .map(|(name, number, args)| broken_if(!filtered(sys::call(*number, *args)), || format!("{name} reached the kernel"))),
    )
}

fn interrupt(_: &Facts) -> Verdict {
    broken_if(sys::interrupt_entry(), || "a call through int 0x80 reached the kernel".to_owned())
}

fn x32(_: &Facts) -> Verdict {
    // A kernel without x32 returns ENOSYS; the filter returns EPERM.
    let errno = sys::call(0x4000_0000 + libc::SYS_getpid, [0; 5]);
    broken_if(errno != libc::EPERM, || "an x32 call reached the kernel".to_owned())
}

fn terminal(_: &Facts) -> Verdict {
    // An unfiltered kernel returns ENOTTY for a descriptor that is not a terminal.
    first([("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c)].map(|(name, request)| {
        let errno = sys::call(libc::SYS_ioctl, [0, request, 0, 0, 0]);
        broken_if(!filtered(errno), || format!("{name} reached the terminal layer"))
    }))
}
