//! Clones a repository with the `git` of the sandbox.
//!
//! [`settings`] determines what git does, and is a function from values to values. [`staging`] holds the new directory until it
//! is complete, and [`process`] runs git in it.

pub(crate) mod message;
mod process;
mod settings;
mod staging;

use crate::{
    deadline::Deadline,
    error::{ErrorCode, ToolError},
    limits,
    resolve::Resolver,
};
use message::{CloneRequest, CloneResult};
use process::GitProcesses;
use settings::GitSettings;
use staging::StagedDirectory;
use std::{
    ffi::OsString,
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

/// Clones the repository of a request.
pub(crate) fn clone(resolver: &Resolver, request: &CloneRequest) -> Result<CloneResult, ToolError> {
    let GitSettings { clone, submodules, environment } = GitSettings::of(request, &|name| std::env::var_os(name))?;
    let deadline = Deadline::within(limits::CLONE_MS, request.time_ms);
    let path = request.to.as_bytes();
    let staged = StagedDirectory::create(resolver, path)?;
    let environment = alone(environment, &staged.root)?;
    let git = GitProcesses { directory: &staged.root, environment: &environment, deadline };
    git.run(&clone)?;
    if let Some(update) = submodules {
        git.run(&update)?;
    }
    let result = CloneResult {
        commit: git.output(&["rev-parse", "--quiet", "--verify", "HEAD"])?,
        branch: git.output(&["symbolic-ref", "--quiet", "--short", "HEAD"])?,
        shallow: git.output(&["rev-parse", "--is-shallow-repository"])?.is_some_and(|word| word == "true"),
    };
    staged.finish(path)?;
    Ok(result)
}

/// Adds the variable by which git finds no repository around an open directory. Git otherwise reads its configuration.
fn alone(mut environment: Vec<(OsString, OsString)>, directory: &OwnedFd) -> Result<Vec<(OsString, OsString)>, ToolError> {
    let found = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let above = found.ok().as_deref().and_then(Path::parent).map(Path::to_owned);
    let above = above.ok_or_else(|| ToolError::new(ErrorCode::System, "clone: /proc does not name the new directory"))?;
    environment.push(("GIT_CEILING_DIRECTORIES".into(), above.into()));
    Ok(environment)
}

#[cfg(test)]
#[path = "git_clone_tests.rs"]
mod tests;
