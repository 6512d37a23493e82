//! Generates the Rust code of the gRPC interface. protox compiles the definition, so the build needs no `protoc`.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

/// The folder of the definitions, and the definition in it.
const FOLDER: &str = "proto";
const DEFINITION: &str = "agentd/v1/agentd.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={FOLDER}");
    let descriptors = protox::compile([DEFINITION], [FOLDER])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this program by cargo")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Output and input of commands are copied less as `Bytes`.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
