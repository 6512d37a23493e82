//! `agentd vm`: manages the kernel, root file system and Firecracker programs for microVMs.

#[cfg(feature = "images")]
mod build;

#[cfg(feature = "images")]
use build::build;

use super::{args::VmCommand, data, failure::Failure, terminal::Progress, writer};
use crate::isolation::FirecrackerConfig;
use agentd_vm::FIRECRACKER_VERSION;
use std::io::Write;

/// Runs one of the `agentd vm` commands.
pub(crate) fn vm(command: &VmCommand) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        VmCommand::Build(args) => {
            let output = match &args.output {
                Some(output) => output.clone(),
                None => FirecrackerConfig::in_data_dir(&data::folder()?).assets,
            };
            let waiting = Progress::show("building");
            let assets = build(args, &output)?;
            drop(waiting);
            let manifest = assets.manifest();
            let release = if manifest.kernel.release.is_empty() { "of unknown release" } else { &manifest.kernel.release };
            writeln!(out, "{}: kernel {release}, {} modules", output.display(), manifest.modules.len())?;
            if manifest.modules.is_empty() {
                writer::message(format_args!(
                    "warning: no modules were found for this kernel, so it boots only if its drivers are built in — \
                     use --kernel with a Debian kernel package"
                ));
            }
            writeln!(out, "root: {}, {:.1} MB", manifest.source, manifest.root_ext4.bytes as f64 / 1e6)?;
        }
        VmCommand::InstallFirecracker { from } if from.is_empty() => out.write_all(where_from().as_bytes())?,
        VmCommand::InstallFirecracker { from } => {
            let into = FirecrackerConfig::in_data_dir(&data::folder()?).programs;
            for file in from {
                for installed in agentd_vm::install(file, &into)? {
                    writeln!(out, "{}", installed.display())?;
                }
            }
        }
    }
    Ok(0)
}

#[cfg(not(feature = "images"))]
fn build(args: &super::args::VmBuildArgs, output: &std::path::Path) -> Result<agentd_vm::Assets, Failure> {
    let kernel = args.kernel.as_ref().map_or_else(|| "the installed kernel".to_owned(), |kernel| kernel.display().to_string());
    let request = format!("{} from {} and {kernel}", output.display(), args.image);
    Err(format!("command 'vm build': {request}: {}", crate::isolation::left_out("images")).into())
}

fn where_from() -> String {
    let version = FIRECRACKER_VERSION;
    format!(
        "agentd does not download Firecracker. Version {version} for x86-64 is in the archive
  https://github.com/firecracker-microvm/firecracker/releases/download/v{version}/firecracker-v{version}-x86_64.tgz
Then:
  agentd vm install-firecracker --from firecracker-v{version}-x86_64.tgz
This command installs only programs whose digests agentd knows.
"
    )
}
