//! The README's example of the library is compiled and run as written there, even where no sandbox can be created.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "tests")]

use libtest_mimic::{Arguments, Trial};
use std::process::{Command, Output};

#[path = "../examples/readme.rs"]
mod readme;

const README: &str = include_str!("../../../README.md");
const EXAMPLE: &str = include_str!("../examples/readme.rs");

/// Makes this executable run the example instead of the tests.
const RUN: &str = "AGENTD_TEST_RUN_EXAMPLE";

/// A user namespace in which no other can be created.
const WITHOUT_NAMESPACES: &str = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\"";

fn main() {
    agentd::isolation::take_role();
    if std::env::var_os(RUN).is_some() {
        // As the standard library reports an error of `main`.
        let code = readme::main().map_or_else(|error| (eprintln!("Error: {error:?}"), 1).1, |()| 0);
        std::process::exit(code);
    }
    let tests: [(&str, fn()); 3] = [
        ("readme_example_equals_compiled_example", readme_example_equals_compiled_example),
        ("readme_example_runs_its_command", readme_example_runs_its_command),
        ("readme_example_without_user_namespaces_fails", readme_example_without_user_namespaces_fails),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn own_executable() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

/// Runs the example. No other backend is installed in its data directory.
fn output(command: &mut Command) -> Output {
    command.env(RUN, "1").env("AGENTD_DATA_DIR", "/nonexistent").output().unwrap()
}

fn readme_example_equals_compiled_example() {
    let block = README.split("```rust").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let code = |text: &str| text.lines().skip_while(|line| !line.starts_with("use ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(code(block), code(&EXAMPLE.replace("pub fn main", "fn main")));
}

fn readme_example_runs_its_command() {
    let output = output(&mut Command::new(own_executable()));
    assert_eq!((String::from_utf8_lossy(&output.stdout).trim(), output.status.code()), ("Exited: Linux", Some(0)), "{output:?}");
}

fn readme_example_without_user_namespaces_fails() {
    let output =
        output(Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", WITHOUT_NAMESPACES]).arg(own_executable()));
    assert_eq!((String::from_utf8_lossy(&output.stdout).trim(), output.status.code()), ("", Some(1)), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("filesystem"), "{output:?}");
}
