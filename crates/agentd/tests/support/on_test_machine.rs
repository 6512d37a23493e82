//! The `main` of a suite whose tests all run on the test machine.

/// Defines `main`, which runs the named functions as tests. Only root can run the test machine.
macro_rules! on_test_machine {
    ($($test:ident),+ $(,)?) => {
        fn main() {
            $crate::support::machine::take_role();
            agentd::isolation::take_role();
            let arguments = libtest_mimic::Arguments::from_args();
            let trials = || vec![$($crate::support::trial(stringify!($test).to_owned(), $test)),+];
            let trials = if rustix::process::geteuid().is_root() { trials() } else { Vec::new() };
            libtest_mimic::run(&arguments, trials).exit();
        }
    };
}
