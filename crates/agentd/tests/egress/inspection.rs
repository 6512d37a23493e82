//! Inspected hosts: real programs reach them without an option, and rules apply to each request.

use crate::{
    EgressTest,
    json_document::is_documented,
    outer::{PUBLIC, heads, name},
    place::EgressDir,
    programs::repository,
    tls,
};
use std::{path::Path, process::Command};

pub const TESTS: &[EgressTest] = &[
    ("programs_reach_an_inspected_host_without_any_option", programs),
    ("program_without_variables_reads_the_bundle_of_the_system", system_bundle),
    ("host_without_rules_is_not_inspected_beside_one_with_rules", beside),
    ("trust_stores_cannot_be_changed_and_end_with_the_sandbox", stores),
    ("refused_request_gets_the_reason_of_the_operator_and_names_its_grant", refused),
    ("net_check_answers_for_methods_and_paths", check),
    ("explain_prints_what_is_inspected", explain),
    ("variables_of_the_caller_are_kept", own_variables),
];

const RULE: &str = "allow=granted.example/GET:/*";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The bundles of distributions at which a sandbox shows its own.
const SYSTEM: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"];

const PYTHON: &str = "import urllib.request as r; print(r.urlopen('https://granted.example/a').read().decode())";
const NODE: &str = "fetch('https://granted.example/a').then(r => r.text()).then(console.log)";
const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;
public class T {
    public static void main(String[] a) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("https://granted.example/a")).build();
        System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"#;

fn programs(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let _served = repository();
    let place = EgressDir::new();
    std::fs::write(place.work().join("T.java"), JAVA).unwrap();
    let clone = "git clone -q https://granted.example/files/a.git copy && cat copy/file";
    let programs: [(&[&str], &str, bool); 5] = [
        (&["curl", "-sS", "https://granted.example/a"], "tls /a", true),
        (&["/usr/bin/python3", "-c", PYTHON], "tls /a\n", true),
        (&["sh", "-c", clone], "content\n", true),
        // Not every machine has these.
        (&["node", "-e", NODE], "tls /a\n", Path::new("/usr/bin/node").exists()),
        (&["java", "T.java"], "tls /a\n", Path::new("/usr/bin/javac").exists()),
    ];
    for (argv, expected, _) in programs.iter().filter(|(_, _, exists)| *exists) {
        let output = place.trusting(backend, &["--net", RULE], argv).output().unwrap();
        assert_eq!(text(&output.stdout), *expected, "{argv:?}: {output:?}");
    }
    tls::hide();
    // The certificate was issued by the authority of the sandbox: the authority of the tests alone is not trusted.
    let argv = ["curl", "-sS", "--cacert", "ca.pem", "https://granted.example/a"];
    let output = place.trusting(backend, &["--net", RULE], &argv).output().unwrap();
    assert_eq!(output.status.code(), Some(60), "{output:?}");
}

fn system_bundle(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let before: Vec<_> = SYSTEM.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    let found = SYSTEM.iter().find(|path| Path::new(path).is_file());
    // A host without a bundle has no program that reads one.
    let Some(bundle) = found else { panic!("install the package `ca-certificates` to run this test") };
    let argv = ["env", "-i", "/usr/bin/curl", "-sS", "--cacert", bundle, "https://granted.example/a"];
    let output = place.trusting(backend, &["--net", RULE], &argv).output().unwrap();
    assert_eq!(text(&output.stdout), "tls /a", "{output:?}");
    let after: Vec<_> = SYSTEM.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    assert!(before == after, "the host's files are unchanged");
}

fn beside(backend: &str) {
    name("granted.example", &[PUBLIC]);
    name("files.granted.example", &[PUBLIC]);
    let net = "allow=granted.example/GET:/*,files.granted.example";
    // The authority of the tests is trusted inside as the gateway trusts it, and signs the certificate of the second host only.
    let script = "curl -sS https://files.granted.example/a && curl -sS --cacert ca.pem https://files.granted.example/b";
    let output = EgressDir::new().trusting(backend, &["--net", net], &["sh", "-c", script]).output().unwrap();
    assert_eq!(text(&output.stdout), "tls /atls /b", "{output:?}");
}

fn stores(backend: &str) {
    let script = "
ls /dev/agentd && grep -c BEGIN /dev/agentd/ca-certificates.crt
for file in /dev/agentd/ca-certificates.crt /dev/agentd/ca-certificates.jks; do
    (echo x > $file) 2>/dev/null && echo written
    rm -f $file 2>/dev/null && echo removed
done
(echo x > /dev/agentd/new) 2>/dev/null && echo created
mv /dev/agentd /dev/other 2>/dev/null && echo renamed
umount /dev/agentd 2>/dev/null && echo unmounted
true";
    let place = EgressDir::new();
    let output = place.trusting(backend, &["--net", RULE], &["sh", "-c", script]).output().unwrap();
    assert_eq!(text(&output.stdout), "ca-certificates.crt\nca-certificates.jks\n2\n", "{output:?}");
    // Without inspection, there is nothing to trust.
    let script = "ls /dev/agentd 2>&1 >&2; echo ${SSL_CERT_FILE-unset} ${JAVA_TOOL_OPTIONS-unset}";
    let output = place.run(backend, &["--net", "allow=granted.example"], &["sh", "-c", script]);
    assert!(text(&output.stdout).ends_with("\nunset unset\n"), "{output:?}");
    assert!(!Path::new("/dev/agentd").exists());
}

fn refused(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let file = place.outside("grants.toml");
    std::fs::write(&file, "allow = ['granted.example/GET:/v1/*']\ndeny_reason = 'ask the platform team'").unwrap();
    let net = format!("file={}", file.display());
    let script =
        "curl -sS https://granted.example/v1/a; curl -sS -w ' %{http_code}' -d x 'https://granted.example/v1/b?key=hidden'";
    let output = place.trusting(backend, &["--json", "--net", &net], &["sh", "-c", script]).output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let answer = "tls /v1/aagentd: no network grant allows this method and path — add one such as `NAME/METHOD:PATH`\n\
                  ask the platform team\n 403";
    assert_eq!(object["stdout"]["text"], answer, "{object:#}");
    let flows = object["network"]["flows"].as_array().unwrap();
    let flow = flows.iter().find(|flow| !flow["request"].is_null()).unwrap_or_else(|| panic!("{object:#}"));
    assert_eq!((&flow["request"], &flow["allowed"]), (&"POST /v1/b".into(), &false.into()));
    let missing = flow["missing"].as_str().unwrap();
    assert_eq!(missing, "granted.example:443/POST:/v1/b");
    assert_eq!(object["network"]["deny_reasons"], serde_json::json!(["ask the platform team"]));
    is_documented("`agentd run --json`", 1, &[&object["network"]]);
    assert_eq!(heads("tls").len(), 1, "{:?}", heads("tls"));
    assert!(!object["network"].to_string().contains("hidden"), "a query can hold keys");
    // The same in words, and the grant that the message names.
    let post = ["curl", "-sS", "-d", "x", "https://granted.example/v1/b"];
    let output = place.trusting(backend, &["--net", &net], &post).output().unwrap();
    let line = "agentd: network: POST /v1/b of granted.example:443 was refused: no network grant allows this method and path — allow it \
                with --net allow=granted.example:443/POST:/v1/b\n";
    assert!(text(&output.stderr).contains(line), "{output:?}");
    let output = place.trusting(backend, &["--net", &net, "--net", &format!("allow={missing}")], &post).output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("tls /v1/b".to_owned(), String::new()));
}

fn check(_: &str) {
    let place = EgressDir::new();
    let file = place.outside("grants.toml");
    std::fs::write(&file, "allow = ['a.example/GET:/v1/*']\ndeny_reason = 'no'").unwrap();
    for (destination, code, answer) in [
        ("a.example/GET:/v1/x", 0, "allowed by a.example:443/GET:/v1/*: TLS that is inspected; requests: GET:/v1/*\n"),
        (
            "a.example/POST:/v1/x",
            1,
            "refused: no network grant of a.example:443/GET:/v1/* allows POST /v1/x — grant this method and path\nno\n",
        ),
    ] {
        let mut command = Command::new(crate::place::program());
        let output = command.args(["net", "check", destination, "--grants"]).arg(&file).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), answer.to_owned()), "{output:?}");
    }
}

fn explain(backend: &str) {
    let output = EgressDir::new().run(backend, &["--explain", "--net", "allow=a.example/GET:/v1/*,b.example"], &["true"]);
    let text = text(&output.stdout);
    for line in [
        "allowed      a.example:443/GET:/v1/* (requests inside of TLS)",
        "allowed      b.example:443 (TLS for this name)",
        "inspected    TLS of a.example:443, with an authority of this sandbox",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!text.contains("TLS of b.example") && text.contains("\ntrust        /dev/agentd/ca-certificates.crt"), "{text}");
}

fn own_variables(backend: &str) {
    let script = "echo $SSL_CERT_FILE $PIP_CERT";
    let options = ["--net", RULE, "--env", "SSL_CERT_FILE=/own"];
    let output = EgressDir::new().trusting(backend, &options, &["sh", "-c", script]).output().unwrap();
    assert_eq!(text(&output.stdout), "/own /dev/agentd/ca-certificates.crt\n", "{output:?}");
}
