use super::super::args::{Cli, Sub};
use super::*;
use crate::isolation::create_backend;
use agentd_core::Access;
use clap::Parser;

fn grant(path: &str, target: Option<&str>) -> Grant {
    Grant { target: target.map(PathBuf::from), ..Grant::new(path, Access::ReadWrite) }
}

#[test]
fn inside_path_is_that_of_innermost_grant() {
    let granted = [grant("/w", None), grant("/w/data", Some("/data")), grant("/other", None)];
    for (path, shown) in
        [("/w", Some("/w")), ("/w/a", Some("/w/a")), ("/w/data", Some("/data")), ("/w/data/a", Some("/data/a")), ("/x", None)]
    {
        assert_eq!(inside(Path::new(path), &granted), shown.map(PathBuf::from), "{path}");
    }
}

/// Describes a custom backend with these traits.
fn mine(traits: BackendTraits) -> BackendDescription<'static> {
    BackendDescription { name: "mine", traits }
}

fn asked(backend: &BackendDescription<'_>, options: &[&str]) -> Result<(SandboxSpec, Command), Failure> {
    let argv = [&["agentd", "run", "--workspace", "none"], options, &["--", "true"]].concat();
    let Sub::Run(args) = Cli::try_parse_from(argv)?.command else { panic!("not a run") };
    request(&args, backend, None)
}

fn is_root(backend: &BackendDescription<'_>) -> bool {
    let (spec, command) = asked(backend, &[]).unwrap();
    let variable = |name: &str| command.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap();
    let root = variable("USER") == "root";
    assert_eq!((variable("HOME") == "/root", spec.home.as_deref() == Some(Path::new("/root"))), (root, root));
    root
}

#[test]
fn command_with_uid_zero_has_user_name_and_home_of_root() {
    let made = |name| create_backend(name, &std::env::temp_dir()).unwrap();
    assert!(!is_root(&BackendDescription::new(&*made("linux-native"))));
    assert!(is_root(&BackendDescription::new(&*made("container"))));
    #[cfg(feature = "gondolin")]
    assert!(is_root(&BackendDescription::new(&*made("gondolin"))));
    #[cfg(feature = "firecracker")]
    assert!(is_root(&BackendDescription::new(&*made("firecracker"))));
    assert!(!is_root(&mine(BackendTraits::default())));
    assert!(is_root(&mine(BackendTraits { uid_zero: true, ..BackendTraits::default() })));
}

#[test]
fn grant_at_another_path_is_refused_without_the_trait() {
    let moved = ["--ro", "/usr/share:/share"];
    let refused = |traits| asked(&mine(traits), &moved).err().map(|error| error.to_string());
    let fixed = refused(BackendTraits::default()).unwrap();
    assert!(fixed.contains("mine cannot mount a grant at another path"), "{fixed}");
    assert_eq!(refused(BackendTraits { moves_grants: true, ..BackendTraits::default() }), None);
    let open = refused(BackendTraits { boundary: false, moves_grants: true, ..BackendTraits::default() }).unwrap();
    assert!(open.contains("mine has no boundary and cannot enforce --ro"), "{open}");
}

#[test]
fn cwd_may_exist_only_inside() {
    let granted = [grant("/w", Some("/data"))];
    for path in ["/data/a", "/no/such/place"] {
        assert_eq!(named_directory(Path::new(path), &granted).unwrap(), Path::new(path));
    }
    assert!(named_directory(Path::new("no/such/place"), &granted).unwrap_err().to_string().contains("create it, or"));
}

#[test]
fn run_parsed_alone_equals_run_parsed_among_all_commands() {
    let both = |argv: &[&str]| {
        let shown = |parsed: Result<Cli, clap::Error>| parsed.map(|cli| format!("{cli:?}")).map_err(|error| error.to_string());
        (shown(Cli::parse_all(argv.iter().map(Into::into))), shown(Cli::try_parse_from(argv)))
    };
    for options in [&[][..], &["--memory", "1G", "--ro", "/usr", "--json"], &["--no-host-tools=all", "-it", "--env", "run=run"]] {
        let argv = [&["agentd", "run"], options, &["--", "true", "--help"]].concat();
        let (alone, among) = both(&argv);
        assert!(alone.is_ok(), "{alone:?}");
        assert_eq!(alone, among);
    }
    for argv in [&["agentd", "run"][..], &["agentd", "run", "--nothing", "true"], &["agentd", "run", "--help"]] {
        let (alone, among) = both(argv);
        assert!(alone.is_err(), "{alone:?}");
        assert_eq!(alone, among);
    }
    // With a Cargo feature off, any other word is the name of a command.
    let (alone, among) = both(&["agentd", "rnu"]);
    assert_eq!(alone, among);
}
