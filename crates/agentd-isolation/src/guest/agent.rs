//! The agent as a process whose carrier is standard input and output.

use super::serve::serve;
use crate::descriptor::Descriptor;
use std::{ffi::OsString, io, os::fd::AsFd, path::PathBuf};

/// The last part of an agent's `argv[0]`. Its first argument is the directory that becomes the sandbox's root.
pub const ROLE: &str = "agentd-guest";

/// What an agent does until its host is gone or tells it to end. Gives its exit code; what went wrong is on standard error.
pub fn main(mut args: impl Iterator<Item = OsString>) -> i32 {
    let Some(root) = args.next() else {
        eprintln!("agentd-guest: name the directory that becomes the root");
        return 2;
    };
    // One thread: it becomes its own launcher by a fork.
    let served = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let mut carrier = Some((
                Descriptor::reader(io::stdin().as_fd().try_clone_to_owned()?)?,
                Descriptor::writer(io::stdout().as_fd().try_clone_to_owned()?)?,
            ));
            let accept = move || {
                let carrier = carrier.take();
                async move { carrier.ok_or_else(|| io::Error::other("standard input and output carry one connection")) }
            };
            serve(accept, PathBuf::from(root)).await
        })
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("agentd-guest: {error}");
            1
        }
    }
}
