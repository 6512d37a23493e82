//! `agentd vm`: what microVMs are started from.

use super::{
    Failure,
    args::{VmBuildArgs, VmCommand},
    data, image,
    terminal::Progress,
    writer,
};
use agentd_image::{Reference, Store};
use agentd_isolation::FirecrackerConfig;
use agentd_vm::{Assets, Builder, FIRECRACKER_VERSION};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// What an imported directory is called while it is built from.
const IMPORTED: &str = "local/imported:latest";

/// Carries out one of the commands.
pub(crate) fn vm(command: &VmCommand) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        VmCommand::Build(args) => {
            let output = match &args.output {
                Some(output) => output.clone(),
                None => FirecrackerConfig::below(&data::folder()?).assets,
            };
            let waiting = Progress::of("building");
            let assets = build(args, &output)?;
            drop(waiting);
            let manifest = assets.manifest();
            let release = if manifest.kernel.release.is_empty() { "of unknown release" } else { &manifest.kernel.release };
            writeln!(out, "{}: kernel {release}, {} modules", output.display(), manifest.modules.len())?;
            if manifest.modules.is_empty() {
                writer::say(format_args!(
                    "no modules were found for this kernel: it starts only if all that it needs is built in; a kernel package has them"
                ));
            }
            writeln!(out, "root: {}, {:.1} MB", manifest.source, manifest.root_ext4.bytes as f64 / 1e6)?;
        }
        VmCommand::FetchFirecracker { from } if from.is_empty() => out.write_all(where_from().as_bytes())?,
        VmCommand::FetchFirecracker { from } => {
            let into = FirecrackerConfig::below(&data::folder()?).programs;
            for file in from {
                for installed in agentd_vm::install(file, &into)? {
                    writeln!(out, "{}", installed.display())?;
                }
            }
        }
    }
    Ok(0)
}

fn build(args: &VmBuildArgs, output: &Path) -> Result<Assets, Failure> {
    let builder = |layers: Vec<PathBuf>, source| Builder { layers, source, kernel: args.kernel.clone() };
    let local = Path::new(&args.image);
    if !local.exists() {
        let (image, _hold) = image::hold(&args.image.parse::<Reference>()?)?;
        return Ok(builder(image.layers, format!("{} {}", image.reference, image.digest)).build(output)?);
    }
    // Taken in first, so that its files are the caller's, and what is no file, directory or link is left out.
    let parent = output.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let scratch = Scratch(parent.join(format!(".agentd-vm-import-{}", std::process::id())));
    let image = Store::open(&scratch.0)?.import(local, &IMPORTED.parse()?)?;
    Ok(builder(image.layers, local.display().to_string()).build(output)?)
}

/// A store for one image; gone when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is told by its name, and nothing uses it.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn where_from() -> String {
    let version = FIRECRACKER_VERSION;
    format!(
        "agentd downloads nothing by itself. Firecracker {version} for x86-64 is in the archive
  https://github.com/firecracker-microvm/firecracker/releases/download/v{version}/firecracker-v{version}-x86_64.tgz
Then:
  agentd vm fetch-firecracker --from firecracker-v{version}-x86_64.tgz
Its programs are installed when their digests are those that agentd knows.
"
    )
}
