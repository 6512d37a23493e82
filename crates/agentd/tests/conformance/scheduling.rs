//! Scheduling: a command may change its own processes only.

use crate::{support::*, table};
use libtest_mimic::Trial;

pub fn trials(backend: &'static str) -> Vec<Trial> {
    // Without a boundary these would change processes of the host.
    if backend == "host-direct" {
        return Vec::new();
    }
    table!(
        backend,
        command_cannot_reschedule_another_command,
        command_reschedules_its_groups_and_what_left_its_session,
        program_sets_the_processors_of_its_threads,
    )
}

/// Defines `attempts`, which tries every call on a process and returns the names of those that the kernel allowed, and `show`,
/// which prints the scheduling of this process.
const PRELUDE: &str = "\
import ctypes, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
ioprio_set, ioprio_get, sched_setattr = {'x86_64': (251, 252, 314), 'aarch64': (30, 31, 274)}[os.uname().machine]
attr = struct.pack('=IIQiIQQQ', 48, 3, 0, 7, 0, 0, 0, 0)
def pipe(name):
  try: os.mkfifo('/tmp/' + name)
  except FileExistsError: pass
  return '/tmp/' + name
def check(result):
  if result != 0: raise OSError(ctypes.get_errno(), 'call')
def show():
  print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0)), \
      libc.syscall(ioprio_get, 1, 0))
def attempts(pid):
  calls = {
    'setpriority': lambda: os.setpriority(os.PRIO_PROCESS, pid, 7),
    'setpriority of the group': lambda: os.setpriority(os.PRIO_PGRP, pid, 7),
    'setpriority of the user': lambda: os.setpriority(os.PRIO_USER, 0, 7),
    'sched_setscheduler': lambda: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
    'sched_setparam': lambda: os.sched_setparam(pid, os.sched_param(0)),
    'sched_setattr': lambda: check(libc.syscall(sched_setattr, pid, attr, 0)),
    'sched_setaffinity': lambda: os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))}),
    'ioprio_set': lambda: check(libc.syscall(ioprio_set, 1, pid, 3 << 13)),
    'ioprio_set of the group': lambda: check(libc.syscall(ioprio_set, 2, pid, 3 << 13)),
    'ioprio_set of the user': lambda: check(libc.syscall(ioprio_set, 3, os.getuid(), 3 << 13)),
    'core scheduling': lambda: check(libc.prctl(62, 1, pid, 0, 0)),
  }
  allowed = []
  for name, call in calls.items():
    try: call(); allowed.append(name)
    except OSError: pass
  return allowed
";

async fn command_cannot_reschedule_another_command(backend: &str) {
    let sandbox = bare(backend).await;
    let python = |text: &str| {
        let whole = format!("{PRELUDE}{text}");
        let sandbox = sandbox.clone();
        async move { sandbox.exec(command(&["/usr/bin/python3", "-c", &whole])).await.unwrap() }
    };
    let victim = "\
show()
open(pipe('there'), 'w').write(str(os.getpid()))
open(pipe('tried')).read()
show()
";
    // The children of the attacker try the same calls from another process group and from another session.
    let attacker = "\
victim = int(open(pipe('there')).read())
allowed = attempts(victim) + attempts(1)
for leave in [os.setpgrp, os.setsid]:
  child = os.fork()
  if child == 0:
    leave()
    os._exit(len(attempts(victim)) + len(attempts(1)))
  allowed += [str(leave)] * os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
open(pipe('tried'), 'w').write('x')
print(allowed)
";
    let (victim, attacker) = tokio::join!(python(victim), python(attacker));
    assert_eq!(out(&attacker), "[]\n", "{attacker:?}");
    let shown = out(&victim);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{victim:?}");
    sandbox.destroy().await.unwrap();
}

async fn command_reschedules_its_groups_and_what_left_its_session(backend: &str) {
    let sandbox = bare(backend).await;
    let text = format!(
        "{PRELUDE}\
def child(leave):
  ready, told = os.pipe()
  pid = os.fork()
  if pid == 0:
    leave()
    os.write(told, b'x')
    signal.pause()
  os.read(ready, 1)
  return pid
own = ['setpriority', 'sched_setscheduler', 'sched_setparam', 'sched_setaffinity', 'sched_setattr', 'ioprio_set']
def changed(pid, group):
  wanted = own + (['setpriority of the group', 'ioprio_set of the group'] if group else [])
  return sorted(attempts(pid)) == sorted(wanted)
same, group, session = child(lambda: None), child(os.setpgrp), child(os.setsid)
print(changed(same, False), changed(group, True), changed(session, True), changed(0, True), changed(os.getpid(), True))
print([os.getpriority(os.PRIO_PROCESS, pid) for pid in [same, group, session, 0]], os.sched_getscheduler(session))
for pid in [same, group, session]: os.kill(pid, signal.SIGKILL)
"
    );
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", &text])).await.unwrap();
    assert_eq!(out(&outcome), "True True True True True\n[7, 7, 7, 7] 3\n", "{outcome:?}");
    sandbox.destroy().await.unwrap();
}

async fn program_sets_the_processors_of_its_threads(backend: &str) {
    let sandbox = bare(backend).await;
    let text = format!(
        "{PRELUDE}
import threading
waits = threading.Event()
ids = []
started = threading.Barrier(3)
def work():
  ids.append(threading.get_native_id())
  started.wait()
  waits.wait()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
started.wait()
last = {{max(os.sched_getaffinity(0))}}
for number in ids: os.sched_setaffinity(number, last)
print(all(os.sched_getaffinity(number) == last for number in ids))
try: os.sched_setaffinity(ids[0], set())
except OSError as error: print(error.errno)
try: os.sched_setaffinity(2 ** 22, last)
except OSError as error: print(error.errno)
waits.set()
"
    );
    let outcome = sandbox.exec(command(&["/usr/bin/python3", "-c", &text])).await.unwrap();
    assert_eq!(out(&outcome), "True\n22\n3\n", "{outcome:?}");
    sandbox.destroy().await.unwrap();
}
