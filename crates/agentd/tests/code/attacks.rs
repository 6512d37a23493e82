//! Cells that attack the host, other sessions, or the protocol between the kernel and the host.

use crate::place::{User, mark, runs, until};
use serde_json::json;

#[test]
fn session_reads_no_state_of_another_session() {
    let user = User::new();
    user.python("one", "secret = 'canary'\nopen('/tmp/secret', 'w').write(secret)\nimport os; os.environ['S'] = secret");
    let search = "import glob, os\nfound = []\nfor path in glob.glob('/proc/*/environ') + glob.glob('/tmp/*') + glob.glob('/proc/*/mem'):\n    \
                  try:\n        found += [path] if b'canary' in open(path, 'rb').read(1 << 20) else []\n    except OSError: pass\n\
                  ('secret' in globals(), found, os.environ.get('S'))";
    assert_eq!(user.python("two", search)["value"]["text/plain"], "(False, [], None)");
    // The same search finds the state of its own session.
    assert!(user.python("one", search)["value"]["text/plain"].as_str().unwrap().contains("/tmp/secret"));
}

#[test]
fn printed_frames_are_output() {
    let user = User::new();
    let frame = r#"{"type":"done","cell":1,"status":"ok","exit_code":0}"#;
    for (language, source) in [
        ("python", format!("print('{}\\n' + '{frame}')", frame.len())),
        ("python", "import subprocess\nsubprocess.run('ls /proc/self/fd; echo forged >&9', shell=True) and None".to_owned()),
        ("node", "require('child_process').spawnSync('sh', ['-c', 'cat; echo forged >&9'], { stdio: 'inherit' }); 0".to_owned()),
        ("bash", "cat; (echo forged >&9) 2>/dev/null; sh -c 'echo forged >&9' 2>/dev/null; true".to_owned()),
    ] {
        let result = user.cell(language, "a", &source);
        assert_eq!(result["session"]["lost"], false, "{language}: {result:#}");
        assert_eq!(user.cell(language, "a", "")["session"]["new"], false, "{language}");
    }
}

#[test]
fn kernel_that_lies_about_frames_loses_only_its_session() {
    let user = User::new();
    user.python("other", "x = 1");
    // The frames of the kernel that executes the cell know its number.
    let number =
        "import os, sys\nf = sys._getframe()\nwhile 'self' not in f.f_locals: f = f.f_back\nnumber = f.f_locals['self'].cell\n";
    let done = "end = b'{\"type\":\"done\",\"cell\":%d,\"status\":\"ok\",\"exit_code\":0}' % number\n";
    for lie in [
        "os.write(9, b'99999999\\n')".to_owned(),
        "os.write(9, b'-5\\nhello')".to_owned(),
        "os.write(9, b'5\\nhello')".to_owned(),
        "os.write(9, b'2\\n{}')".to_owned(),
        "deep = b'[' * 100000\nos.write(9, b'%d\\n%s' % (len(deep), deep))".to_owned(),
        format!("number += 1\n{done}os.write(9, b'%d\\n%s' % (len(end), end))"),
        format!("{done}os.write(9, b'%d\\n%s' % (len(end), end) * 2)"),
        "import socket\nsocket.socket(fileno=9).shutdown(socket.SHUT_RDWR)\nimport time\nwhile True: time.sleep(1)".to_owned(),
        "os.write(9, b'8388608\\n' + b' ' * 100)\nos.kill(os.getpid(), 9)".to_owned(),
    ] {
        let (code, object) = user.python_with("a", &format!("{number}{lie}"), &[]);
        assert!(code != 0 && object["error"]["code"] == "session-lost", "{lie}: {code} {object:#}");
        assert_eq!(user.python("a", "'number' in globals()")["session"]["new"], true, "{lie}");
        user.good(&["sandbox", "rm", object["result"]["session"]["sandbox"].as_str().unwrap()]);
    }
    // A cell that forges its own end loses its session at the next cell at the latest.
    let forged = format!("{number}{done}os.write(9, b'%d\\n%s' % (len(end), end))\nimport time; time.sleep(0.2)");
    user.python_with("a", &forged, &[]);
    let (_, object) = user.python_with("a", "1", &[]);
    assert_eq!(object["error"]["code"], "session-lost", "{object:#}");
    assert_eq!(user.python("other", "x")["value"]["text/plain"], "1");
}

#[test]
fn floods_of_output_and_reports_end_the_cell_at_the_limit() {
    let user = User::new();
    for (language, source) in [
        ("python", "while True: print('x' * 10000)"),
        ("python", "while True: display('x' * 10000)"),
        ("node", "while (true) console.log('x'.repeat(10000))"),
        ("bash", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"),
    ] {
        let (code, object) = user.cell_with(language, "a", source, &["--max-output", "1M"]);
        assert!(code != 0 && object["reason"] == "output-limit", "{language} {source}: {code} {object:#}");
        let kept = object["result"]["stdout"]["bytes"].as_u64().unwrap();
        assert!(kept <= 1 << 20, "{kept}");
        assert!(object.to_string().len() < 4 << 20);
        assert_eq!(user.cell_with(language, "a", "1", &[]).1["status"], "finished");
    }
}

#[test]
fn child_that_outlives_its_cell_ends_with_the_session() {
    let user = User::new();
    let mark = mark(1);
    // The child floods standard output, and inherits no socket of the kernel.
    let source = format!(
        "import subprocess\nchild = subprocess.Popen(['sh', '-c', 'setsid sleep {mark} & while :; do echo tick; done'])\nchild.pid > 0"
    );
    assert_eq!(user.python("a", &source)["value"]["text/plain"], "True");
    for _ in 0..3 {
        let result = user.python("a", "child.poll()");
        assert_eq!((&result["value"], &result["session"]["lost"]), (&json!(null), &json!(false)));
    }
    let forked = user.python("a", "import os, time\nif os.fork() == 0:\n    time.sleep(0.1)\n    display('from the child')\n0");
    assert_eq!(forked["displays"], json!([]));
    let result = user.python("a", "time.sleep(0.3)\n1");
    assert_eq!((&result["displays"], &result["value"]["text/plain"]), (&json!([]), &json!("1")), "{result:#}");
    assert!(runs(&format!("sleep\0{mark}")));
    user.good(&["sandbox", "rm", result["session"]["sandbox"].as_str().unwrap()]);
    until("no process of the session is left", || !runs(&format!("sleep\0{mark}")));
}
