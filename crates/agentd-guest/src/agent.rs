//! The agent as a process whose transport is standard input and output.

use super::serve::serve;
use agentd_isolation::descriptor::Descriptor;
use std::{ffi::OsString, io, os::fd::AsFd, path::PathBuf};

/// Serves until the host disconnects or requests a shutdown, and returns the exit code. The first argument is the directory that
/// becomes the sandbox's root. Errors are written to standard error.
pub fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    let Some(root) = args.next() else {
        eprintln!("agentd-guest: missing argument: the directory that becomes the root of the sandbox");
        return 2;
    };
    // A single thread, because the agent becomes its own launcher by a fork.
    let served = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let mut transport = Some((
                Descriptor::reader(io::stdin().as_fd().try_clone_to_owned()?)?,
                Descriptor::writer(io::stdout().as_fd().try_clone_to_owned()?)?,
            ));
            let accept = move || {
                let transport = transport.take();
                async move {
                    transport.ok_or_else(|| {
                        io::Error::other("cannot accept another connection: standard input and output carry only one")
                    })
                }
            };
            serve(accept, PathBuf::from(root)).await
        })
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("agentd-guest: {}", agentd_core::escape::text(&error.to_string()));
            1
        }
    }
}
