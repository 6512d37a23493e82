//! `agentd call git.clone.v1`: clones work, and neither a repository nor the workspace makes git do anything else.

use crate::{
    EgressTest,
    calls::{VALUE, call},
    outer::{PUBLIC, heads, name, reached},
    place::EgressDir,
    tls,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, path::Path, process::Command};
use tempfile::TempDir;

pub const TESTS: &[EgressTest] = &[
    ("clone_has_the_requested_history_and_a_plain_configuration", histories),
    ("clone_uses_no_hook_filter_or_configuration_of_others", hostile),
    ("submodule_needs_the_request_and_https_at_a_granted_host", submodules),
    ("credential_of_a_clone_stays_with_the_gateway", credential),
    ("clone_goes_nowhere_else_and_leaves_nothing_if_it_fails", destinations),
];

/// A grant for which the gateway inspects TLS: the sandbox then trusts the authorities that the host trusts.
const NET: [&str; 2] = ["--net", "allow=granted.example/*:/*"];

const URL: &str = "https://granted.example/git/a.git";

/// Makes repositories by a script, which the server shows below `/git/`.
fn repositories(script: &str) -> TempDir {
    let served = tempfile::tempdir().unwrap();
    let begin = "set -e
        commit() { git -C $1 add -A; git -C $1 -c user.name=t -c user.email=t@t commit -qm \"$2\"; }
        git init -q -b main a; echo one >a/file; commit a one; echo two >a/file; commit a two; git -C a branch other
        git -C a tag v1; ";
    let end = "\ngit clone -q --bare a a.git";
    let script = [begin, script, end].concat();
    let made = Command::new("sh").args(["-c", &script]).current_dir(served.path()).env("HOME", served.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    tls::show(served.path());
    served
}

fn clone(place: &EgressDir, backend: &str, more: &Value, options: &[&str]) -> (i32, Value, String) {
    let mut parameters = json!({ "url": URL, "to": "copy" });
    parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let ended = call(place, backend, "git.clone.v1", &parameters, options);
    assert!(!ended.1.to_string().contains(VALUE) && !ended.2.contains(VALUE), "{ended:?}");
    ended
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").args(["-c", "safe.directory=*"]).args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn histories(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let _served = repositories("");
    let place = EgressDir::new();
    let copy = place.work().join("copy");
    for (more, commits, branch, shallow, branches) in [
        (json!({}), "2\n", json!("main"), false, 3),
        (json!({ "depth": 1 }), "1\n", json!("main"), true, 3),
        (json!({ "branch": "other", "single_branch": true }), "2\n", json!("other"), false, 1),
        (json!({ "branch": "v1", "depth": 1, "single_branch": true }), "1\n", Value::Null, true, 0),
    ] {
        let (code, object, messages) = clone(&place, backend, &more, &NET);
        assert_eq!((code, &object["result"]["branch"]), (0, &branch), "{more}: {object:#}\n{messages}");
        assert_eq!(object["result"]["shallow"], shallow);
        assert_eq!(object["result"]["commit"], git(&copy, &["rev-parse", "HEAD"]).trim());
        assert_eq!(
            (fs::read_to_string(copy.join("file")).unwrap().as_str(), git(&copy, &["rev-list", "--count", "HEAD"]).as_str()),
            ("two\n", commits)
        );
        assert_eq!(git(&copy, &["branch", "--remotes"]).lines().count(), branches, "{more}");
        let keys = git(&copy, &["config", "--local", "--name-only", "--list"]);
        let plain = |key: &str| ["core.", "remote.origin.", "branch."].iter().any(|prefix| key.starts_with(prefix));
        assert!(keys.lines().all(plain) && !keys.contains("hookspath") && !keys.contains("fsmonitor"), "{keys}");
        assert!(!copy.join(".git/hooks").exists(), "there is no template");
        // A new repository is reported, like every other that a sandbox creates, and nothing else is.
        let warned: Vec<_> = messages.lines().filter(|line| line.contains("warning")).collect();
        assert!(warned.len() <= 1 && warned.iter().all(|line| line.contains("copy/.git")), "{messages}");
        assert_eq!(entries(&place.work()), ["ca.pem", "copy"]);
        fs::remove_dir_all(&copy).unwrap();
    }
    tls::hide();
}

/// Makes the workspace a repository whose configuration executes programs.
fn evil_workspace(place: &EgressDir) {
    let work = place.work();
    git(&work, &["init", "-q"]);
    fs::create_dir(work.join("hooks")).unwrap();
    for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
        let path = work.join("hooks").join(hook);
        fs::write(&path, "#!/bin/sh\ntouch \"$OLDPWD/pwned\" /tmp/pwned; exit 1\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let pwned = work.join("pwned");
    let touch = format!("touch {}", pwned.display());
    for (key, value) in [
        ("core.hooksPath", work.join("hooks").to_str().unwrap()),
        ("core.fsmonitor", &touch),
        ("filter.evil.smudge", &touch),
        ("filter.evil.required", "true"),
        ("filter.lfs.smudge", &touch),
        ("credential.helper", &format!("!{touch}")),
        ("url.https://evil.example/.insteadOf", "https://granted.example/"),
        ("init.templateDir", work.to_str().unwrap()),
    ] {
        git(&work, &["config", key, value]);
    }
}

fn hostile(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let attributes = "printf 'file filter=evil\\nlarge filter=lfs\\n' >a/.gitattributes; printf 'pointer\\n' >a/large
        printf '[core]\\n\\tfsmonitor = touch pwned\\n' >a/.gitconfig; cp a/.gitconfig a/.lfsconfig
        ln -s /etc/passwd a/link; commit a evil";
    let _served = repositories(attributes);
    let place = EgressDir::new();
    evil_workspace(&place);
    let (code, object, messages) = clone(&place, backend, &json!({}), &NET);
    assert_eq!(code, 0, "{object:#}\n{messages}");
    let copy = place.work().join("copy");
    assert_eq!(
        (fs::read_to_string(copy.join("file")).unwrap(), fs::read_to_string(copy.join("large")).unwrap()),
        ("two\n".to_owned(), "pointer\n".to_owned())
    );
    assert!(!place.work().join("pwned").exists() && !copy.join("pwned").exists() && !copy.join(".git/hooks").exists());
    assert_eq!(git(&copy, &["config", "--local", "remote.origin.url"]).trim(), URL);
    tls::hide();
}

fn submodules(backend: &str) {
    for host in ["granted.example", "files.granted.example"] {
        name(host, &[PUBLIC]);
    }
    let with = |url: &str| {
        format!(
            "git init -q -b main s; echo sub >s/inner; commit s first; git clone -q --bare s s.git
            printf '[submodule \"s\"]\\n\\tpath = s\\n\\turl = %s\\n' '{url}' >a/.gitmodules
            mkdir a/s; git -C a update-index --add --cacheinfo 160000,$(git -C s rev-parse HEAD),s; commit a submodule"
        )
    };
    let asked = json!({ "submodules": true });
    let both = ["--net", "allow=granted.example/*:/*,files.granted.example/*:/*"];
    for (url, more, net, expected) in [
        ("https://files.granted.example/git/s.git", json!({}), &both, Some(false)),
        ("https://files.granted.example/git/s.git", asked.clone(), &both, Some(true)),
        ("../s.git", asked.clone(), &NET, Some(true)),
        ("https://files.granted.example/git/s.git", asked.clone(), &NET, None),
        ("ext::sh -c touch% pwned", asked.clone(), &both, None),
        ("file:///etc", asked.clone(), &both, None),
        ("http://granted.example/s", asked.clone(), &both, None),
        ("--upload-pack=touch", asked.clone(), &both, None),
    ] {
        let _served = repositories(&with(url));
        let place = EgressDir::new();
        let (code, object, messages) = clone(&place, backend, &more, net);
        match expected {
            Some(cloned) => {
                assert_eq!(code, 0, "{url}: {object:#}\n{messages}");
                assert_eq!(place.work().join("copy/s/inner").exists(), cloned, "{url}");
            }
            None => {
                assert_eq!((code, &object["error"]["code"]), (1, &json!("git")), "{url}: {object:#}");
                assert_eq!(entries(&place.work()), ["ca.pem"], "{url}");
            }
        }
    }
    tls::hide();
}

fn credential(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let _served = repositories("");
    let place = EgressDir::new();
    let more = json!({ "credential": { "secret": "TOKEN", "user": "ci" } });
    let option = ["--secret", "TOKEN@granted.example/basic=env:REAL_KEY"];
    let (code, object, messages) = clone(&place, backend, &more, &option);
    assert_eq!(code, 0, "{object:#}\n{messages}");
    let sent = data_encoding::BASE64.encode(format!("ci:{VALUE}").as_bytes());
    let all = heads("tls");
    assert!(!all.is_empty() && all.iter().all(|head| head.contains(&format!("Basic {sent}"))), "{all:?}");
    // Neither the value nor the placeholder is left in the repository.
    let config = fs::read_to_string(place.work().join("copy/.git/config")).unwrap().to_lowercase();
    assert!(!config.contains("extraheader") && !config.contains("authorization") && !config.contains("ci:"), "{config}");
    for text in [VALUE, &sent] {
        let found = Command::new("grep").args(["-rl", text]).arg(place.outside("")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
    let (code, object, _) = clone(&place, backend, &json!({ "credential": { "secret": "OTHER" }, "to": "b" }), &NET);
    assert_eq!((code, &object["error"]["code"]), (1, &json!("invalid")), "{object:#}");
    tls::hide();
}

fn destinations(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let _served = repositories("");
    let place = EgressDir::new();
    let outside = place.outside("elsewhere");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(place.work().join("empty")).unwrap();
    symlink(&outside, place.work().join("link")).unwrap();
    symlink("/tmp", place.work().join("tmp")).unwrap();
    let before = entries(&place.work());
    for (to, expected) in [
        ("empty", "already-exists"),
        ("link", "already-exists"),
        ("link/copy", "outside"),
        ("tmp/copy", "outside"),
        ("/tmp/copy", "outside"),
        ("../copy", "outside"),
    ] {
        let (code, object, _) = clone(&place, backend, &json!({ "to": to }), &NET);
        assert_eq!((code, &object["error"]["code"]), (1, &json!(expected)), "{to}: {object:#}");
    }
    assert_eq!(reached(), Vec::<String>::new());
    for more in [json!({ "branch": "missing" }), json!({ "url": "https://granted.example/git/missing.git" })] {
        let (code, object, _) = clone(&place, backend, &more, &NET);
        assert_eq!((code, &object["error"]["code"]), (1, &json!("git")), "{more}: {object:#}");
    }
    assert_eq!((entries(&place.work()), entries(&outside)), (before, Vec::new()));
    let (code, object, _) = clone(&place, backend, &json!({}), &[&NET[..], &["--workspace-ro"]].concat());
    assert_eq!((code, &object["error"]["code"]), (1, &json!("permission-denied")), "{object:#}");
    for more in [json!({ "branch": "--upload-pack=sh" }), json!({ "depth": 0 }), json!({ "url": "http://granted.example/r" })] {
        let (code, object, _) = clone(&place, backend, &more, &[]);
        assert_eq!((code, &object["reason"]), (77, &json!("invalid-parameters")), "{more}: {object:#}");
    }
    tls::hide();
}
