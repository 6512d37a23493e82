//! Every obligation holds in the sandbox of an intent, attacked from inside. Each attack succeeds without the obligation.

use crate::User;
use serde_json::{Value, json};

fn permit(obligation: &str) -> User {
    User::with_policies(&format!(r#"@id("bounded") {obligation} permit (principal, action, resource);"#))
}

fn out(object: &Value) -> &str {
    object["result"]["stdout"]["text"].as_str().unwrap_or_else(|| panic!("{object:#}"))
}

#[test]
fn cpu_time_obligation_ends_a_command_that_computes_on() {
    let compute = json!({
        "language": "python",
        "source": "import time\nwhile time.process_time() < 4: pass\nprint('computed')",
    });
    assert_eq!(out(&User::new().call("code.run.v1", &compute, &[]).1), "computed\n");
    let (code, object) = permit(r#"@cpu_time("1s")"#).call("code.run.v1", &compute, &[]);
    assert_eq!((&object["reason"], out(&object)), (&json!("cpu-limit"), ""), "{object:#}");
    assert!(code != 0 && object["sandbox"]["limits"]["cpu_us"] == 1_000_000, "{object:#}");
}

#[test]
fn file_size_obligation_bounds_every_file_that_is_written() {
    let write = "head -c 3000000 /dev/zero > big; dd if=/dev/zero of=sparse bs=1 count=1 seek=5000000 2>/dev/null; true";
    let size = |user: &User, name: &str| std::fs::metadata(user.path("work").join(name)).map_or(0, |found| found.len());
    let user = User::new();
    user.shell(write, &[]);
    assert_eq!((size(&user, "big"), size(&user, "sparse")), (3_000_000, 5_000_001));
    let user = permit(r#"@file_size("1M")"#);
    user.shell(write, &[]);
    assert!(size(&user, "big") <= 1 << 20 && size(&user, "sparse") <= 1 << 20);
}

#[test]
fn output_obligation_ends_a_command_that_writes_more() {
    let flood = "head -c 500000 /dev/zero; head -c 500000 /dev/zero >&2; echo end";
    let object = User::new().shell(flood, &[]).1;
    assert_eq!((&object["reason"], &object["result"]["stdout"]["bytes"]), (&json!("exited"), &json!(500_004)));
    let (code, object) = permit(r#"@output("100K")"#).shell(flood, &[]);
    assert_eq!((code, &object["reason"]), (137, &json!("output-limit")), "{object:#}");
}

#[test]
fn timeout_obligation_ends_processes_that_leave_the_command() {
    let daemon = "setsid sh -c 'trap \"\" TERM; sleep 3; echo late > late' & wait; echo waited";
    let user = User::new();
    assert_eq!(out(&user.shell(daemon, &[]).1), "waited\n");
    assert!(user.path("work/late").exists());
    let user = permit(r#"@timeout("1s")"#);
    let (code, object) = user.shell(daemon, &[]);
    assert_eq!((code, &object["reason"]), (124, &json!("wall-deadline")), "{object:#}");
    // The sandbox has ended, and with it every process in it.
    assert!(!user.path("work/late").exists());
}

#[test]
fn profile_obligation_refuses_system_calls() {
    let trace = json!({
        "language": "python",
        "source": "import socket\ntry:\n  socket.socket(socket.AF_UNIX)\n  print('made')\nexcept OSError:\n  print('refused')",
    });
    assert_eq!(out(&User::new().call("code.run.v1", &trace, &[]).1), "made\n");
    let object = permit(r#"@profile("strict")"#).call("code.run.v1", &trace, &[]).1;
    assert_ne!(object["result"]["stdout"]["text"], "made\n", "{object:#}");
    assert_eq!(object["sandbox"]["profile"], "strict");
}

#[test]
fn backend_obligation_chooses_the_backend_and_refuses_others() {
    for (backend, other) in [("container", "linux-native"), ("linux-native", "container")] {
        let user = permit(&format!(r#"@backend("{backend}")"#));
        let (code, object) = user.shell("true", &["--receipt", &user.receipt()]);
        assert_eq!((code, &object["sandbox"]["backend"]), (0, &json!(backend)), "{object:#}");
        let words = user.good(&["receipt", "verify", "../receipt"]);
        assert!(words.contains(backend) && !words.contains(other), "{words}");
        for named in [other, "host-direct"] {
            let (code, object) = user.shell("echo > started", &["--backend", named]);
            assert_eq!((code, &object["reason"]), (77, &json!("exceeds-policy")), "{object:#}");
        }
        assert!(!user.path("work/started").exists());
    }
}

#[test]
fn egress_obligation_lets_no_other_destination_be_reached() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = format!(
        "import socket\nfor host, port in [('127.0.0.1', {port}), ('other.example', 443), ('granted.example', 80)]:\n  try:\n    \
         socket.create_connection((host, port), 20)\n    print('reached', host)\n  except OSError:\n    pass\nprint('tried')"
    );
    let outside = std::process::Command::new("python3").args(["-c", &attempts]).output().unwrap();
    assert!(outside.stdout.starts_with(b"reached 127.0.0.1\n"), "{outside:?}");
    let user = permit(r#"@egress("granted.example")"#);
    let attempts = json!({ "language": "python", "source": attempts });
    let (code, object) = user.call("code.run.v1", &attempts, &[]);
    assert_eq!((code, out(&object)), (0, "tried\n"), "{object:#}");
    let refused: Vec<_> = object["receipt"]["payload"].as_str().into_iter().collect();
    assert_eq!(refused.len(), 1, "{object:#}");
    let words = {
        user.call("code.run.v1", &attempts, &["--receipt", &user.receipt()]);
        user.good(&["receipt", "verify", "../receipt"])
    };
    assert!(words.contains("other.example"), "the attempt is recorded: {words}");
}

/// Limits of processes need a control group.
mod as_root {
    use super::*;

    #[test]
    fn processes_obligation_bounds_a_fork_bomb() {
        let bomb = json!({
            "language": "python",
            "source": "import os, time\nfor n in range(200):\n  if os.fork() == 0:\n    time.sleep(1000)\nprint('forked')",
        });
        assert_eq!(out(&User::new().call("code.run.v1", &bomb, &[]).1), "forked\n");
        let (code, object) = permit(r#"@processes("32")"#).call("code.run.v1", &bomb, &[]);
        assert!(code != 0 && object["result"]["stdout"]["text"] != "forked\n", "{object:#}");
        assert_eq!(object["sandbox"]["limits"]["processes"], 32);
    }
}
