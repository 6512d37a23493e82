//! Granted hosts through the library: the gateway runs in this process.

use crate::{
    EgressTest,
    outer::{PUBLIC, lost_packets, name, reached},
    place::backend,
};
use agentd::isolation::{Command, IsolationError, Limits, Network, NetworkMode, NetworkVerdict, Profile, SandboxSpec, Writable};
use agentd_isolation::shared_kernel;
use std::{os::fd::AsRawFd as _, path::Path, time::Duration};

pub const TESTS: &[EgressTest] = &[
    ("sandbox_of_the_library_records_its_flows", flows),
    ("prepared_first_process_reaches_granted_hosts", prepared),
    ("end_of_the_gateways_thread_closes_the_network_of_a_live_sandbox", thread_ends),
    ("first_packet_of_ipv6_in_a_prepared_network_is_answered", usable),
    ("granted_hosts_of_a_running_sandbox_change", changed),
    ("backends_that_cannot_limit_the_network_refuse", refused),
];

const LONG: Duration = Duration::from_secs(60);

fn spec(grants: &[&str]) -> SandboxSpec {
    SandboxSpec { network: Network::Egress(grants.iter().map(|grant| (*grant).to_owned()).collect()), ..SandboxSpec::default() }
}

fn bash(script: &str) -> Command {
    Command {
        argv: ["bash", "-c", script].map(Into::into).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        capture: 1 << 16,
        ..Command::default()
    }
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test)
}

const TALK: &str = "exec 3<>/dev/tcp/granted.example/2222 && echo hello >&3 && read -r line <&3 && echo $line";

fn flows(backend_name: &str) {
    name("granted.example", &[PUBLIC]);
    in_runtime(async {
        let sandbox = backend(backend_name).create_sandbox(spec(&["granted.example:2222"])).await.unwrap();
        let log = sandbox.network_log().unwrap();
        let outcome = sandbox.exec(bash(TALK)).await.unwrap();
        assert_eq!(outcome.stdout.to_bytes(), b"hello\n", "{outcome:?}");
        let mut records = std::iter::from_fn(|| log.next(LONG));
        let flow = records.find(|flow| !matches!(flow.verdict, NetworkVerdict::Open { .. })).unwrap();
        assert_eq!((flow.name.as_deref(), flow.sent, flow.received), (Some("granted.example"), 6, 6));
        assert_eq!(flow.connected, Some(format!("{PUBLIC}:2222").parse().unwrap()));
        assert_eq!(flow.verdict, NetworkVerdict::Granted { rule: "granted.example:2222".to_owned(), cut: None });
        sandbox.destroy().await.unwrap();
        assert_eq!(log.next(LONG), None, "the log ends with the sandbox");
    });
}

fn prepared(backend_name: &str) {
    name("granted.example", &[PUBLIC]);
    in_runtime(async {
        let backend = backend(backend_name);
        let view = backend_name == "linux-native";
        shared_kernel::prepare(NetworkMode::Egress, Profile::Default, &Limits::default(), view);
        let sandbox = backend.create_sandbox(spec(&["granted.example:2222"])).await.unwrap();
        let outcome = sandbox.exec(bash(TALK)).await.unwrap();
        assert_eq!(outcome.stdout.to_bytes(), b"hello\n", "{outcome:?}");
        sandbox.destroy().await.unwrap();
        // A process that was prepared for another network is not used.
        shared_kernel::prepare(NetworkMode::Off, Profile::Default, &Limits::default(), view);
        let sandbox = backend.create_sandbox(spec(&["granted.example:2222"])).await.unwrap();
        assert_eq!(sandbox.exec(bash(TALK)).await.unwrap().stdout.to_bytes(), b"hello\n");
        sandbox.destroy().await.unwrap();
    });
}

/// Returns the epoll descriptors of this process.
fn epolls() -> Vec<i32> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let epolls = all.filter(|path| std::fs::read_link(path).is_ok_and(|to| to == Path::new("anon_inode:[eventpoll]")));
    epolls.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

/// A program that embeds agentd may close descriptors that it does not own, and the event loop of a gateway then fails.
fn thread_ends(backend_name: &str) {
    name("granted.example", &[PUBLIC]);
    in_runtime(async {
        let before = epolls();
        let sandbox = backend(backend_name).create_sandbox(spec(&["granted.example:2222"])).await.unwrap();
        let outcome = sandbox.exec(bash(TALK)).await.unwrap();
        assert_eq!(outcome.stdout.to_bytes(), b"hello\n", "{outcome:?}");
        let of_gateway: Vec<i32> = epolls().into_iter().filter(|fd| !before.contains(fd)).collect();
        assert!(!of_gateway.is_empty());
        let null = std::fs::File::open("/dev/null").unwrap();
        for fd in of_gateway {
            // SAFETY: the call takes integers only. The gateway owns the descriptor, and this test makes the gateway fail.
            assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), fd) }, fd);
        }
        // The first connection wakes the event loop.
        let script = format!("exec 3<>/dev/tcp/{PUBLIC}/2222 && echo hello >&3 && read -r line <&3 && echo $line");
        loop {
            let outcome = sandbox.exec(bash(&script)).await.unwrap();
            assert_eq!(outcome.stdout.to_bytes(), b"", "{outcome:?}");
            if String::from_utf8_lossy(&outcome.stderr.to_bytes()).contains("Connection refused") {
                break;
            }
        }
        let outcome = sandbox.exec(bash(TALK)).await.unwrap();
        assert!(outcome.exit_code != Some(0) && outcome.stdout.to_bytes().is_empty(), "{outcome:?}");
        assert!(sandbox.is_alive().await);
        sandbox.destroy().await.unwrap();
    });
}

fn usable(_: &str) {
    assert_eq!(lost_packets(), "0");
}

fn changed(backend_name: &str) {
    name("granted.example", &[PUBLIC]);
    in_runtime(async {
        let sandbox = backend(backend_name).create_sandbox(spec(&[])).await.unwrap();
        let talk = async || sandbox.exec(bash(TALK)).await.unwrap().stdout.to_bytes();
        assert_eq!(talk().await, b"");
        let granted = spec(&["granted.example:2222"]).network;
        sandbox.set_network(&granted).await.unwrap();
        assert_eq!(talk().await, b"hello\n");
        // A network that cannot be enforced changes nothing. The running commands have no certificates for inspection.
        for network in [Network::Off, Network::Host, spec(&["*"]).network, spec(&["granted.example/GET:/x"]).network] {
            let error = sandbox.set_network(&network).await.unwrap_err();
            assert!(matches!(&error, IsolationError::Invalid { .. }) && !error.remedy().as_str().is_empty(), "{error}");
        }
        assert_eq!(talk().await, b"hello\n");
        sandbox.set_network(&spec(&[]).network).await.unwrap();
        assert_eq!(talk().await, b"");
        sandbox.destroy().await.unwrap();
        assert!(sandbox.set_network(&granted).await.is_err());
    });
}

fn refused(backend_name: &str) {
    in_runtime(async {
        let mut layered = spec(&["granted.example"]);
        layered.writable = Writable::TemporaryLayers;
        let specs = [("host-direct", spec(&["granted.example"])), (backend_name, spec(&["*"])), (backend_name, layered)];
        for (name, spec) in specs {
            let Err(error) = backend(name).create_sandbox(spec).await else { panic!("{name} created a sandbox") };
            assert!(matches!(&error, IsolationError::Invalid { .. }), "{error}");
            assert!(!error.remedy().as_str().is_empty(), "{error}");
        }
        assert_eq!(reached(), [""; 0]);
    });
}
