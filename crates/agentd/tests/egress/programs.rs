//! Real programs without proxy settings reach the granted hosts.

use crate::{
    EgressTest,
    outer::{PUBLIC, name, reached, wait_for_end},
    place::EgressDir,
    tls,
};
use std::process::Command;

pub const TESTS: &[EgressTest] = &[
    ("curl_reaches_a_granted_name_with_tls_and_plain", curl),
    ("python_reaches_names_below_a_wildcard", python),
    ("git_clones_over_https", git),
    ("data_sent_just_before_the_end_arrives", last_data),
    ("proxy_of_the_host_gets_the_checked_address", proxy),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn curl(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let net = "allow=granted.example,granted.example:80";
    let script = "curl -sS --cacert ca.pem https://granted.example/a && echo && curl -sS http://granted.example/b";
    let output = EgressDir::new().run(backend, &["--net", net], &["sh", "-c", script]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("tls /a\nhttp /b".to_owned(), String::new()));
    assert_eq!(reached(), [format!("{PUBLIC}:443"), format!("{PUBLIC}:80")]);
}

fn python(backend: &str) {
    name("files.granted.example", &[PUBLIC]);
    let script = "
import urllib.request
context = ssl.create_default_context(cafile='ca.pem')
print(urllib.request.urlopen('https://files.granted.example/p', context=context).read().decode())
";
    let (out, err) = EgressDir::new().python(backend, "*.granted.example", script);
    assert_eq!((out.as_str(), err.as_str()), ("tls /p\n", ""));
}

fn git(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let served = tempfile::tempdir().unwrap();
    let script = "git init -q -b main a && cd a && echo content > file && git add file &&
        git -c user.name=t -c user.email=t@t commit -qm first && cd .. && git clone -q --bare a a.git &&
        git -C a.git update-server-info";
    let made = Command::new("sh").args(["-c", script]).current_dir(served.path()).env("HOME", served.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    tls::show(served.path());
    let script = "git -c http.sslCAInfo=$PWD/ca.pem clone -q https://granted.example/files/a.git copy && cat copy/file";
    let output = EgressDir::new().run(backend, &["--net", "allow=granted.example"], &["sh", "-c", script]);
    tls::hide();
    assert_eq!(text(&output.stdout), "content\n", "{output:?}");
}

/// The program ends before the gateway has connected.
fn last_data(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "exec 3<>/dev/tcp/granted.example/2222 && echo last >&3";
    let output = EgressDir::new().run(backend, &["--net", "allow=granted.example:2222", "--json"], &["bash", "-c", script]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let flow = &object["network"]["flows"][0];
    assert_eq!((&flow["to"], &flow["sent_bytes"]), (&"granted.example:2222".into(), &5.into()), "{object:#}");
    wait_for_end(PUBLIC);
}

fn proxy(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let argv = ["curl", "-sS", "--cacert", "ca.pem", "https://granted.example/a"];
    let output = |proxy: &str| {
        place.command(backend, &["--net", "allow=granted.example"], &argv).env("HTTPS_PROXY", proxy).output().unwrap()
    };
    let through = output("http://10.9.9.9:3128");
    assert_eq!(text(&through.stdout), "tls /a", "{through:?}");
    assert_eq!(reached(), ["10.9.9.9:3128".to_owned(), format!("{PUBLIC}:443")]);
    let loopback = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2222 && echo near >&3 && read -r line <&3 && echo $line"];
    let mut loopback = place.command(backend, &["--net", "allow=127.0.0.1:2222"], &loopback);
    let direct = loopback.env("HTTPS_PROXY", "http://10.9.9.9:3128").output().unwrap();
    assert_eq!(text(&direct.stdout), "near\n", "{direct:?}");
    assert_eq!(reached().iter().filter(|at| *at == "10.9.9.9:3128").count(), 1, "{:?}", reached());
    let unusable = output("socks5://10.9.9.9:1080");
    assert_eq!(unusable.status.code(), Some(125));
    assert!(text(&unusable.stderr).contains("invalid HTTPS_PROXY: upstream proxy: the scheme is not `http`"), "{unusable:?}");
}
