//! The program `agentd`. It is also the launcher and the supervisor of every sandbox; see `agentd::isolation::take_role`.

fn main() -> std::process::ExitCode {
    agentd::isolation::take_role();
    agentd::cli::main()
}
