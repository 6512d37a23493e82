//! Results of filtered system calls, from the view of programs. Without a boundary there is no filter.

use crate::{support::*, table};
use libtest_mimic::Trial;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    if backend == "host-direct" {
        return Vec::new();
    }
    table!(
        backend,
        lowering_core_limit_succeeds_and_changes_nothing,
        protective_calls_take_effect,
        unknown_calls_and_refused_sockets_return_errno_of_older_kernel,
    )
}

/// Runs a Python program and returns its output.
async fn python(backend: &str, text: &str) -> String {
    let sandbox = bare(backend).await;
    let whole = format!("import ctypes, errno, os, resource, socket, struct\nlibc = ctypes.CDLL(None, use_errno=True)\n{text}");
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", &whole])).await.unwrap();
    sandbox.destroy().await.unwrap();
    out(&outcome) + &String::from_utf8_lossy(&outcome.stderr.to_bytes())
}

async fn lowering_core_limit_succeeds_and_changes_nothing(backend: &str) {
    let text = "\
import subprocess
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
subprocess.run(['sh', '-c', 'ulimit -c 0 && ulimit -Hc 0'], check=True)
none = struct.pack('QQ', 0, 0)
for call in [lambda: libc.setrlimit(4, none), lambda: libc.syscall(160, 4, none), \
    lambda: libc.prlimit(0, 4, none, None)]: print(call())
print(resource.getrlimit(resource.RLIMIT_CORE))
";
    assert_eq!(python(backend, text).await, "0\n0\n0\n(1, 1)\n");
}

async fn protective_calls_take_effect(backend: &str) {
    let text = "\
PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 3, 4, 22, 1, 38
print(libc.prctl(PR_SET_DUMPABLE, 0), libc.prctl(PR_GET_DUMPABLE), libc.prctl(PR_SET_PDEATHSIG, 9), \
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
page = ctypes.create_string_buffer(8192)
print(libc.mlock(page, 4096), libc.madvise(ctypes.c_void_p(ctypes.addressof(page) + 4095 & ~4095), 4096, 16))
for limit in [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_AS]:
  soft, hard = resource.getrlimit(limit)
  lower = (1 << 40) if hard == resource.RLIM_INFINITY else hard // 2
  resource.setrlimit(limit, (lower, lower))
  print(resource.getrlimit(limit) == (lower, lower), flush=True)
child = os.fork()
if child == 0:
  getuid = 174 if os.uname().machine == 'aarch64' else 102
  kill = [(0x20, 0, 0, 0), (0x15, 0, 1, getuid), (6, 0, 0, 1 << 31), (6, 0, 0, 0x7fff0000)]
  filter = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *i) for i in kill))
  print(libc.prctl(PR_SET_SECCOMP, 2, struct.pack('HP', len(kill), ctypes.addressof(filter))), flush=True)
  os.getuid()
  os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if libc.syscall(444, None, 0, 1) < 1: print('no Landlock'); raise SystemExit
rules = struct.pack('Q', 1 << 2)
ruleset = libc.syscall(444, rules, len(rules), 0)
print(ruleset >= 0, libc.syscall(446, ruleset, 0))
try: open('/etc/passwd')
except PermissionError: print('refused')
";
    let printed = python(backend, text).await;
    let expected = "0 0 0 0\n0 0\nTrue\nTrue\nTrue\nTrue\n0\n-31\nTrue 0\nrefused\n";
    assert!(printed == expected || printed == expected.replace("True 0\nrefused\n", "no Landlock\n"), "{printed}");
}

async fn unknown_calls_and_refused_sockets_return_errno_of_older_kernel(backend: &str) {
    let text = "\
for number in [457, 458, 463, 467, 468, 999]:
  ctypes.set_errno(0); libc.syscall(number, 0, 0, 0, 0, 0, 0); print(errno.errorcode[ctypes.get_errno()])
for family, kind, protocol in [(16, 3, 9), (16, 3, 12), (40, 1, 0), (17, 3, 0), (2, 1, 132), (38, 5, 0)]:
  try: socket.socket(family, kind, protocol); print('opened')
  except OSError as e: print(errno.errorcode[e.errno])
";
    let calls = "ENOSYS\n".repeat(6);
    let sockets = "EPROTONOSUPPORT\nEPROTONOSUPPORT\nEAFNOSUPPORT\nEAFNOSUPPORT\nEPROTONOSUPPORT\nEAFNOSUPPORT\n";
    assert_eq!(python(backend, text).await, calls + sockets);
}
