//! `--explain`.

use crate::place::{RunDir, text};

#[test]
fn explain_prints_plan_and_runs_nothing() {
    let place = RunDir::new();
    let output = place.run(&["--explain", "--memory", "64M", "--ro", "/usr/share"], &["touch", "made"]);
    let plan = text(&output.stdout);
    for part in ["namespaces", "landlock", "seccomp", "cgroup       memory 64M, no swap", "/usr/share (read-only)", "privileges"]
    {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    let options = ["--explain", "--backend", "container", "--ro", "/usr/share:/share"];
    let plan = text(&place.run(&options, &["touch", "made"]).stdout);
    for part in [
        "root         private",
        "system ",
        "etc          the world-readable part of the host's",
        "names        root (0), group root (0), home /root; host agentd, no resolver",
        "grant        /usr/share at /share (read-only)",
        "seccomp",
        "privileges",
    ] {
        assert!(plan.contains(part), "{part} in {plan}");
    }
    assert!(!plan.contains("boundary") && !plan.contains("masked"), "{plan}");
    let plan = text(&place.run(&["--explain", "--backend", "none"], &["touch", "made"]).stdout);
    assert!(plan.contains("boundary     none"), "{plan}");
    assert!(!place.work().join("made").exists());
}

#[test]
fn plan_of_every_backend_names_each_control() {
    let place = RunDir::new();
    let sandbox = ["namespaces", "root", "home", "names", "grant", "landlock", "seccomp", "cgroup", "privileges"];
    let container =
        ["namespaces", "root", "home", "system", "etc", "names", "grant", "landlock", "seccomp", "cgroup", "privileges"];
    for (backend, before, inside) in [
        ("host-direct", &["boundary"][..], &[][..]),
        ("linux-native", &[], &["namespaces", "masked", "home", "names", "grant", "landlock", "seccomp", "cgroup", "privileges"]),
        ("container", &[], &container),
        ("firecracker", &["machine", "host side", "grants", "inside"], &sandbox),
        ("gondolin", &["machine", "host side", "inside"], &sandbox),
    ] {
        let mut run = place.command(&["--explain", "--backend", backend], &["touch", "made"]);
        let output = run.env("AGENTD_DATA_DIR", place.root.path().join("data")).output().unwrap();
        assert!(output.status.success(), "{backend}: {output:?}");
        let plan = text(&output.stdout);
        // The links, and the means by which a host enforces limits, depend on the host.
        let mut subjects: Vec<&str> = plan.lines().map(|line| line.get(..12).unwrap_or(line).trim()).collect();
        subjects.retain(|subject| !["rlimit", "link", "protected"].contains(subject));
        subjects.dedup();
        let wanted: Vec<&str> = [&["backend"][..], before, inside].concat();
        assert_eq!(subjects, wanted, "{plan}");
        assert!(plan.starts_with(&format!("backend      {backend}\n")), "{plan}");
        let own_root = ["container", "firecracker", "gondolin"].contains(&backend);
        assert_eq!(plan.contains("\nhome         /root\n"), own_root, "{plan}");
    }
    assert!(!place.work().join("made").exists());
}
