//! Secrets: their host receives them, and nothing inside the sandbox ever has them.

use crate::{
    EgressTest,
    outer::{PUBLIC, heads, name, reached},
    place::EgressDir,
    search::{descendants, has, in_files, in_memory},
};
use agentd::isolation::{Command as SandboxCommand, Network, NetworkSecret, NetworkVerdict, SandboxSpec, create_backend};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    thread,
    time::Duration,
};

pub const TESTS: &[EgressTest] = &[
    ("secret_reaches_its_host_and_is_nowhere_in_the_sandbox", nowhere),
    ("secret_comes_from_a_variable_a_file_or_a_descriptor", sources),
    ("secret_is_the_password_of_basic_authentication", basic),
    ("secret_reaches_no_other_host_port_or_header", elsewhere),
    ("secret_is_not_sent_to_a_server_that_is_not_verified", unverified),
    ("credential_of_the_command_for_the_host_of_a_secret_is_refused", own_credential),
    ("secrets_that_cannot_be_used_are_errors_and_nothing_runs", invalid),
    ("explain_prints_where_secrets_go", explain),
    ("secret_of_the_library_reaches_its_host", library),
    ("preset_of_an_agent_grants_its_api_and_keeps_its_key_outside", agent),
];

const VALUE: &str = "real-value-8c1f6d0a44be4f21";
const NET: [&str; 2] = ["--net", "allow=granted.example"];
const SECRET: [&str; 2] = ["--secret", "API_KEY@granted.example=env:REAL_KEY"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that nothing that agentd printed has the value.
fn silent(output: &Output) {
    assert!(!has(&output.stdout, VALUE) && !has(&output.stderr, VALUE), "{output:?}");
}

/// Runs with the secret in the variable REAL_KEY of agentd.
fn run(place: &EgressDir, backend: &str, options: &[&str], script: &str) -> Output {
    let output = place.trusting(backend, options, &["sh", "-c", script]).env("REAL_KEY", VALUE).output().unwrap();
    silent(&output);
    output
}

/// The credentials that the TLS server received for a host.
fn credentials(host: &str) -> Vec<String> {
    let of_host = |head: &String| head.to_lowercase().contains(&format!("\r\nhost: {host}\r\n"));
    let credential = |head: String| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
        line.and_then(|line| line.split_once(": ")).map(|(_, credential)| credential.to_owned()).unwrap_or_default()
    };
    heads("tls").into_iter().filter(of_host).map(credential).collect()
}

/// The part of the server's response that shows the credential, as it arrives in the sandbox.
const REFLECTED: &str = "you sent authorization: Bearer ****";

const HOLD: &str = "
import os, time, urllib.request as r
key = os.environ['API_KEY']
answer = r.urlopen(r.Request('https://granted.example/reflect', headers={'Authorization': 'Bearer ' + key}))
head, body = str(answer.headers), answer.read().decode()
print(head, body)
for place in '/tmp/answer-1', os.environ['HOME'] + '/answer-2', 'answer-3':
    with open(place, 'w') as file: file.write(head + body + repr(dict(os.environ)))
open('ready', 'w').close()
while not os.path.exists('done'): time.sleep(0.01)
";

fn nowhere(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let options = [&["--json"][..], &NET, &SECRET].concat();
    let mut command = place.trusting(backend, &options, &["/usr/bin/python3", "-c", HOLD]);
    command.env("REAL_KEY", VALUE).env("AGENTD_LOG", "trace").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = command.spawn().unwrap();
    let pid = run.id();
    let reader = thread::spawn(move || {
        let mut err = Vec::new();
        std::io::Read::read_to_end(&mut run.stderr.take().unwrap(), &mut err).unwrap();
        let output = run.wait_with_output().unwrap();
        Output { stderr: err, ..output }
    });
    while !place.work().join("ready").exists() && !reader.is_finished() {
        thread::sleep(Duration::from_millis(5));
    }
    let processes = descendants(pid);
    let name_of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let python = processes.iter().copied().find(|pid| name_of(*pid).starts_with("python"));
    let found: Vec<_> = processes.iter().map(|pid| (name_of(*pid), in_memory(*pid, VALUE))).collect();
    let held = python.map(|pid| in_memory(pid, REFLECTED));
    let environments: Vec<_> =
        processes.iter().filter(|pid| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| has(&all, VALUE))).collect();
    let variables = python.and_then(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok()).unwrap_or_default();
    let home = variables.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"HOME=/"));
    let home = text(home.unwrap_or_default());
    let inside = python.map(|pid| Path::new("/proc").join(pid.to_string()).join("root")).unwrap_or_default();
    let places = ["tmp", "var/tmp", "run", "dev/shm", "dev/agentd", &home].map(|name| inside.join(name));
    let searched = places.into_iter().chain([place.work()]);
    let files: Vec<_> = searched.clone().flat_map(|place| in_files(&place, VALUE)).collect();
    let masked = searched.flat_map(|place| in_files(&place, REFLECTED)).map(|path| path.file_name().unwrap().to_owned());
    let masked: BTreeSet<_> = masked.collect();
    std::fs::write(place.work().join("done"), "").unwrap();
    let output = reader.join().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(object["exit_code"], 0, "{object:#}");
    silent(&output);
    assert_eq!(credentials("granted.example"), [format!("Bearer {VALUE}")]);
    let reflected = format!("Authorization: Bearer {}", "*".repeat(VALUE.len()));
    let printed = object["stdout"]["text"].as_str().unwrap();
    assert_eq!(printed.to_lowercase().matches(&reflected.to_lowercase()).count(), 2, "{printed}");
    // The search finds what is there.
    assert_eq!(held, Some(Some(true)), "{found:?}");
    assert_eq!(masked, BTreeSet::from(["answer-1", "answer-2", "answer-3"].map(OsString::from)));
    assert!(text(&output.stderr).contains("sandbox created"), "the log is on: {output:?}");
    assert_eq!((files, environments), (Vec::new(), Vec::new()));
    assert!(found.len() >= 3, "launcher, first process and command: {found:?}");
    // An ordinary user cannot read processes that no other process may trace.
    let root = rustix::process::geteuid().is_root();
    assert!(found.iter().all(|(_, has)| *has == Some(false) || (!root && has.is_none())), "{found:?}");
}

const ASK: &str = "curl -sS -H \"Authorization: Bearer $API_KEY\" https://granted.example/a";

fn sources(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let file = place.outside("key");
    std::fs::write(&file, format!("{VALUE}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let from_file = format!("API_KEY@granted.example=file:{}", file.display());
    for source in [SECRET[1], &from_file, "API_KEY@granted.example:443/Authorization=fd:0"] {
        let mut command = place.trusting(backend, &[&NET[..], &["--secret", source]].concat(), &["sh", "-c", ASK]);
        command.env("REAL_KEY", VALUE).stdin(std::fs::File::open(&file).unwrap());
        let output = command.output().unwrap();
        silent(&output);
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("tls /a".to_owned(), String::new()), "{source}");
    }
    assert_eq!(credentials("granted.example"), [(); 3].map(|()| format!("Bearer {VALUE}")));
}

fn basic(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "curl -sS -u \"user:$TOKEN\" https://granted.example/reflect";
    let options = [&NET[..], &["--secret", "TOKEN@granted.example/basic=env:REAL_KEY"]].concat();
    let output = run(&EgressDir::new(), backend, &options, script);
    let sent = data_encoding::BASE64.encode(format!("user:{VALUE}").as_bytes());
    assert_eq!(credentials("granted.example"), [format!("Basic {sent}")]);
    let printed = text(&output.stdout).to_lowercase();
    assert!(printed.starts_with("you sent authorization: basic ") && printed.contains("*****"), "{output:?}");
    assert!(!has(&output.stdout, &sent[8..]), "{output:?}");
}

fn elsewhere(backend: &str) {
    for host in ["granted.example", "files.granted.example"] {
        name(host, &[PUBLIC]);
    }
    let net = ["--net", "allow=granted.example,files.granted.example,granted.example:80,granted.example:2222"];
    let script = "
key=\"Authorization: Bearer $API_KEY\"
curl -sS -H \"$key\" https://files.granted.example/other
curl -sS -H \"$key\" http://granted.example/plain
curl -sS -H \"X-Other: $API_KEY\" \"https://granted.example/a?q=$API_KEY\"
curl -sS -L --location-trusted -H \"$key\" https://granted.example/redirect
curl -sS -H \"$key\" -H 'Host: files.granted.example' https://granted.example/a
printf '%s\\n' \"$API_KEY\" | /usr/bin/python3 -c \"
import socket, sys
s = socket.create_connection(('granted.example', 2222))
s.sendall(sys.stdin.readline().encode())
s.shutdown(1)
print(s.makefile().read())
\"
echo; echo \"$API_KEY\"";
    let output = run(&EgressDir::new(), backend, &[&net[..], &SECRET].concat(), script);
    let printed = text(&output.stdout);
    let placeholder = printed.lines().last().unwrap();
    assert!(placeholder.len() >= 32 && printed.contains("tls /landed"), "{output:?}");
    // Only the request to `/redirect` had the header of the secret for its host.
    assert_eq!(credentials("granted.example"), [String::new(), format!("Bearer {VALUE}")]);
    assert_eq!(credentials("files.granted.example"), [(); 2].map(|()| format!("Bearer {placeholder}")));
    let plain = heads("http");
    assert!(plain.len() == 1 && plain[0].contains(placeholder) && !plain[0].contains(VALUE), "{plain:?}");
    let all = heads("tls");
    assert_eq!(all.iter().filter(|head| head.contains(VALUE)).count(), 1, "{all:?}");
    assert!(printed.matches(placeholder).count() >= 2, "TCP carries the placeholder as it is: {printed}");
}

fn unverified(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let script = format!("{ASK} -k");
    let mut command = place.command(backend, &[&NET[..], &SECRET].concat(), &["sh", "-c", &script]);
    // The host trusts its own authorities, and the server's is not among them.
    let output = command.env("REAL_KEY", VALUE).output().unwrap();
    silent(&output);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(text(&output.stderr).contains("granted.example:443: not reached: invalid peer certificate"), "{output:?}");
    assert_eq!((heads("tls").len(), reached().len()), (0, 1));
}

fn own_credential(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let script = "curl -sS -H 'Authorization: Bearer of-the-attacker' https://granted.example/a";
    let output = run(&EgressDir::new(), backend, &[&NET[..], &SECRET].concat(), script);
    assert!(text(&output.stdout).starts_with("agentd: the header `authorization` is reserved for a secret"), "{output:?}");
    assert_eq!(heads("tls"), [""; 0]);
}

fn invalid(backend: &str) {
    let place = EgressDir::new();
    std::fs::write(place.work().join("key"), VALUE).unwrap();
    let inside = format!("API_KEY@granted.example=file:{}", place.work().join("key").display());
    let literal = format!("API_KEY@granted.example={VALUE}");
    let expanded = format!("API_KEY@granted.example=env:{VALUE}");
    let own = format!("OTHER={VALUE}");
    for (options, reason) in [
        (&["--secret", SECRET[1]][..], "secrets need a network of granted hosts"),
        (&["--net", "off", "--secret", SECRET[1]], "secrets need a network of granted hosts"),
        (&["--net", "host", "--secret", SECRET[1]], "secrets need a network of granted hosts"),
        (&["--net", "allow=other.example", "--secret", SECRET[1]], "no network grant covers this host and port with TLS"),
        (&["--net", "allow=granted.example:80", "--secret", "A@granted.example:80=env:REAL_KEY"], "with TLS"),
        (&["--net", "allow=*.example", "--secret", "A@*.example=env:REAL_KEY"], "name one host, without a scheme or wildcard"),
        (&[NET[0], NET[1], "--secret", "A@granted.example=env:NOT_SET"], "that is not set in the environment of agentd"),
        (&[NET[0], NET[1], "--secret", "A@granted.example=env:SHORT"], "fewer than 8 or more than 4096 bytes"),
        (&[NET[0], NET[1], "--secret", "A@granted.example/host=env:REAL_KEY"], "the header `host` cannot carry a secret"),
        (&[NET[0], NET[1], "--secret", "PIP_CERT@granted.example=env:REAL_KEY"], "names the trusted certificates"),
        (&[NET[0], NET[1], SECRET[0], SECRET[1], SECRET[0], SECRET[1]], "two secrets have the variable API_KEY"),
        (&[NET[0], NET[1], SECRET[0], SECRET[1], "--env", "API_KEY=x"], "--env sets the same variable"),
        (&[NET[0], NET[1], SECRET[0], SECRET[1], "--env", &own], "the variable OTHER of the command also contains the value"),
        (&[NET[0], NET[1], "--secret", &inside], "the command could read the file with the value"),
        (&[NET[0], NET[1], "--secret", &literal], "the value must not be an argument"),
        (&[NET[0], NET[1], "--secret", &expanded], "not set in the environment of agentd"),
    ] {
        for json in [&[][..], &["--json"]] {
            let mut command = place.trusting(backend, &[options, json].concat(), &["touch", "ran"]);
            let output = command.env("REAL_KEY", VALUE).env("SHORT", "1234567").output().unwrap();
            silent(&output);
            assert_eq!(output.status.code(), Some(125), "{options:?}: {output:?}");
            assert!(text(&output.stderr).contains(reason), "{options:?}: {output:?}");
        }
    }
    let options = [NET[0], NET[1], SECRET[0], SECRET[1]];
    for (variable, value) in [("SSL_CERT_FILE", "ca.pem"), ("SSL_CERT_DIR", "")] {
        let mut command = place.trusting(backend, &options, &["touch", "ran"]);
        let output = command.env("REAL_KEY", VALUE).env(variable, place.work().join(value)).output().unwrap();
        let reason = format!("{variable}: {}: the command could change these certificates", place.work().join(value).display());
        assert!(output.status.code() == Some(125) && text(&output.stderr).contains(&reason), "{output:?}");
    }
    let output = place.trusting("host-direct", &options, &["touch", "ran"]).env("REAL_KEY", VALUE).output().unwrap();
    let refused = text(&output.stderr).contains("host-direct has no boundary and cannot enforce --net allow= or log");
    assert!(output.status.code() == Some(125) && refused, "{output:?}");
    assert!(!place.work().join("ran").exists());
}

fn explain(backend: &str) {
    let output = run(&EgressDir::new(), backend, &[&["--explain"][..], &NET, &SECRET].concat(), "true");
    let text = text(&output.stdout);
    for line in [
        "inspected    TLS of granted.example:443, with an authority of this sandbox",
        "secret       API_KEY: the header authorization of requests to granted.example:443; the sandbox has a placeholder",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

fn library(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let mut secret = NetworkSecret::new("API_KEY@granted.example", VALUE.to_owned());
    secret.prefix = "sk-".to_owned();
    let network = Network::Egress(vec!["granted.example".to_owned()]);
    let spec = SandboxSpec { network, secrets: vec![secret], ..SandboxSpec::default() };
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(async {
        let sandbox = create_backend(backend, &std::env::temp_dir()).unwrap().create_sandbox(spec).await.unwrap();
        let mut env = sandbox.network_environment();
        let placeholder = env.iter().find(|(name, _)| name == "API_KEY").map(|(_, value)| value.clone()).unwrap();
        assert!(placeholder.to_string_lossy().starts_with("sk-"), "{placeholder:?}");
        env.push(("PATH".into(), "/usr/bin:/bin".into()));
        let argv = ["sh", "-c", ASK].map(Into::into).to_vec();
        // This process trusts no authority of the tests, so the server is not reached: the placeholder stays a placeholder.
        let outcome = sandbox.exec(SandboxCommand { argv, env, capture: 1 << 16, ..SandboxCommand::default() }).await.unwrap();
        assert_ne!(outcome.exit_code, Some(0), "{outcome:?}");
        let log = sandbox.network_log().unwrap();
        let mut records = std::iter::from_fn(|| log.next(Duration::from_secs(60)));
        let flow = records.find(|flow| !matches!(flow.verdict, NetworkVerdict::Open { .. })).unwrap();
        assert!(!format!("{flow:?}").contains(VALUE) && format!("{flow:?}").contains("invalid peer certificate"), "{flow:?}");
        sandbox.destroy().await.unwrap();
    });
    assert_eq!(heads("tls"), [""; 0]);
}

fn agent(backend: &str) {
    for host in ["api.openai.com", "api.anthropic.com"] {
        name(host, &[PUBLIC]);
    }
    let place = EgressDir::new();
    let script =
        "curl -sS -H \"Authorization: Bearer $CODEX_API_KEY\" https://api.openai.com/v1/responses && echo && echo $CODEX_API_KEY";
    let run = |options: &[&str], script: &str, variables: &[(&str, &str)]| {
        let mut command = place.trusting(backend, options, &["sh", "-c", script]);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        silent(&output);
        output
    };
    let output = run(&["--preset", "codex"], script, &[("OPENAI_API_KEY", VALUE)]);
    let printed = text(&output.stdout);
    assert!(printed.starts_with("tls /v1/responses\nsk-") && output.stderr.is_empty(), "{output:?}");
    // An option states the key instead of a variable, and `--net preset=` grants the hosts only.
    let options = ["--preset", "codex", "--secret", "CODEX_API_KEY@api.openai.com=env:MY_KEY"];
    let output = run(&options, script, &[("MY_KEY", VALUE), ("OPENAI_API_KEY", "another-value-of-the-caller")]);
    assert!(text(&output.stdout).starts_with("tls /v1/responses\nsk-"), "{output:?}");
    assert_eq!(credentials("api.openai.com"), [(); 2].map(|()| format!("Bearer {VALUE}")));
    let output =
        run(&["--net", "preset=codex"], "echo ${CODEX_API_KEY-unset} ${SSL_CERT_FILE-unset}", &[("OPENAI_API_KEY", VALUE)]);
    assert_eq!(text(&output.stdout), "unset unset\n", "{output:?}");
    // Of several keys, those that are set are used, and only their hosts are granted.
    let script = "curl -sS -H \"x-api-key: $ANTHROPIC_API_KEY\" https://api.anthropic.com/v1/messages; echo
        echo ${OPENAI_API_KEY-unset} $OPENCODE_DISABLE_AUTOUPDATE; curl -sS https://api.openai.com/ 2>/dev/null || echo refused";
    let output = run(&["--preset", "opencode"], script, &[("ANTHROPIC_API_KEY", VALUE)]);
    assert_eq!(text(&output.stdout), "tls /v1/messages\nunset 1\nrefused\n", "{output:?}");
    let key = format!("x-api-key: {VALUE}");
    assert_eq!(heads("tls").iter().filter(|head| head.to_lowercase().contains(&key)).count(), 1, "{:?}", heads("tls"));
    let output = run(&["--preset", "codex"], "touch ran", &[]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("set CODEX_API_KEY or OPENAI_API_KEY, or use --secret"), "{output:?}");
    assert!(!place.work().join("ran").exists());
}
