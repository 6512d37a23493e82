//! The terms of sessions: what was decided for the first cell holds for all, and a later decision is never exceeded.

use crate::place::User;
use serde_json::json;

#[test]
fn obligations_of_the_policies_hold_in_the_session() {
    let user = User::with_policies(
        r#"@id("strict") @profile("strict") @open_files("64") @timeout("20s") permit (principal, action, resource);"#,
    );
    let source = "import resource, socket\nprint(resource.getrlimit(resource.RLIMIT_NOFILE)[1])\nsocket.socket(socket.AF_UNIX)";
    let (code, object) = user.python_with("a", source, &[]);
    let name = object["result"]["error"]["name"].as_str().unwrap();
    assert!(code == 1 && ["PermissionError", "OSError"].contains(&name), "{object:#}");
    assert_eq!(object["result"]["stdout"]["text"], "64\n");
    assert_eq!((&object["sandbox"]["profile"], &object["sandbox"]["backend"]), (&json!("strict"), &json!("container")));
    for language in ["node", "bash"] {
        assert_eq!(user.cell(language, "a", "")["session"]["new"], true, "the profile suffices for {language}");
    }
    let (code, object) = user.python_with("a", "1", &["--timeout", "21s"]);
    assert_eq!((code, &object["reason"]), (77, &json!("exceeds-policy")));
}

#[test]
fn cell_under_a_stricter_decision_is_refused() {
    let user = User::new();
    user.python("a", "x = 1");
    for options in [&["--profile", "strict"][..], &["--open-files", "64"], &["--workspace", "none"], &["--workspace-ro"]] {
        let (code, object) = user.python_with("a", "open('written', 'w')", options);
        assert_eq!((code, &object["status"], &object["reason"]), (77, &json!("refused"), &json!("exceeds-policy")), "{object:#}");
    }
    std::fs::create_dir(user.path("other")).unwrap();
    let (code, object) = user.python_with("a", "open('written', 'w')", &["--workspace", "../other"]);
    assert!(code == 77 && object["error"]["message"].as_str().unwrap().contains("other"), "{object:#}");
    user.set_policies(r#"@id("strict") @profile("strict") permit (principal, action, resource);"#);
    let (code, object) = user.python_with("a", "open('written', 'w')", &[]);
    assert_eq!((code, &object["reason"]), (77, &json!("exceeds-policy")), "{object:#}");
    assert!(!user.path("work/written").exists());
    user.set_policies(r#"@id("all") permit (principal, action, resource);"#);
    assert_eq!(user.python("a", "x")["value"]["text/plain"], "1", "the session was not used");
}

#[test]
fn backend_without_sessions_is_refused_with_a_remedy() {
    let user = User::new();
    let (code, object) = user.python_with("a", "1", &["--backend", "linux-native"]);
    let message = object["error"]["message"].as_str().unwrap();
    assert!(code == 125 && message.contains("backend container") && message.contains(" — "), "{object:#}");
}

#[test]
fn number_of_sessions_is_bounded() {
    let user = User::new();
    let names: Vec<_> =
        (0..8).map(|_| user.cell("bash", "new", ":")["session"]["sandbox"].as_str().unwrap().to_owned()).collect();
    let (code, object) = user.cell_with("bash", "new", ":", &[]);
    assert!(code == 125 && object["error"]["message"].as_str().unwrap().contains("agentd sandbox rm"), "{object:#}");
    user.good(&["sandbox", "rm", &names[0]]);
    user.cell("bash", "new", ":");
}

#[test]
fn session_has_no_arguments_and_its_handle_is_no_path() {
    let user = User::new();
    for parameters in [
        json!({ "language": "python", "source": "1", "session": "../a" }),
        json!({ "language": "python", "source": "1", "session": "" }),
        json!({ "language": "python", "source": "1", "session": "a".repeat(33) }),
        json!({ "language": "python", "source": "1", "session": "a", "args": ["b"] }),
        json!({ "language": "python", "source": "1", "session": "a", "env": {} }),
        json!({ "language": "perl", "source": "1", "session": "a" }),
    ] {
        let parameters = parameters.to_string();
        let output = user.command(&["call", "code.run.v1", "--params", &parameters, "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(77), "{parameters}: {output:?}");
    }
}

#[test]
fn cell_that_requests_hosts_its_session_does_not_reach_is_refused() {
    let user = User::new();
    user.python("a", "x = 1");
    let (code, object) = user.python_with("a", "x", &["--net", "allow=a.example"]);
    assert_eq!((code, &object["reason"]), (77, &json!("exceeds-policy")), "{object:#}");
    let message = object["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("session: it has no network, and the request names hosts"), "{message}");
    user.python_with("b", "x = 1", &["--net", "allow=a.example"]);
    let (_, object) = user.python_with("b", "x", &["--net", "allow=a.example,b.example"]);
    let message = object["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("session: it reaches only a.example, and the request names other hosts"), "{message}");
    for fewer in ["allow=a.example", "off"] {
        let (_, object) = user.python_with("b", "x", &["--net", fewer]);
        let is_more = fewer == "off";
        assert_eq!(object["reason"] == "exceeds-policy", is_more, "{object:#}");
    }
}

mod as_root {
    use super::*;
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};

    #[test]
    fn another_user_cannot_use_a_handle() {
        let user = User::new();
        user.python("a", "x = 'canary'");
        for path in ["", "data", "work"] {
            std::fs::set_permissions(user.path(path), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        // The other user may not be able to read cargo's build directory.
        let cell = user.cell_command("python", "a", "x", &[]);
        std::fs::copy(cell.get_program(), user.path("agentd")).unwrap();
        let mut other = std::process::Command::new(user.path("agentd"));
        other.args(cell.get_args()).current_dir(user.path("work")).env("AGENTD_DATA_DIR", user.path("data"));
        let output = other.uid(65534).gid(65534).output().unwrap();
        assert!(output.status.code() != Some(0), "{output:?}");
        let text = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&text).contains("canary"));
        assert_eq!(user.python("a", "x")["value"]["text/plain"], "'canary'");
    }
}
