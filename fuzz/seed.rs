// The tests of the `fuzz` modules include this file. `fuzz/seeds.sh` writes the seeds that these tests use.

/// Writes a seed of a fuzz target to the directory that `AGENTD_FUZZ_SEEDS` names, if it is set.
fn keep_seed(target: &str, name: &str, bytes: &[u8]) {
    if let Some(seeds) = std::env::var_os("AGENTD_FUZZ_SEEDS") {
        let directory = std::path::Path::new(&seeds).join(target);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}
