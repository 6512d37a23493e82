//! Protected paths: files in a writable grant that host tools may execute or load later. Examples are hooks, settings and
//! instructions of git, shells, editors and agents.
//!
//! A protected path that exists when the sandbox starts is read-only inside. [`names`] plans these paths, and every start
//! completes the plan. This has two gaps. A read-only mount is detached when the host renames a file over it, and a missing path
//! cannot be mounted over without creating it in the host's directory. So a [`Watch`] compares all protected paths before and
//! after, and reports every difference.
//!
//! - `list`: the paths and the reason for each, from `paths.txt`
//! - `git`: the hooks and settings of a repository
//! - `plan`, `release`: the protected paths of a grant, and those that the user releases
//! - `search`, `listing`, `tree`: git directories, and listed names in subdirectories, anywhere in a tree
//! - `subdirectory`, `case`: matches names with the list, even on file systems that ignore case
//! - `links`: the targets of symbolic links
//! - `interrupt`: ends a comparison early
//! - `report`, `group`, `summary`, `gaps`: the changes that a comparison found, and the paths that it left out
//! - `state`, `observation`, `watch`: the state of a path, the states of all paths at one time, and their changes
//! - `tracked`: protected files that git could not check out
//! - `read`: safe reading of files that a payload may have created

mod case;
mod gaps;
mod git;
mod group;
mod interrupt;
mod links;
mod list;
mod listing;
mod observation;
mod plan;
mod read;
mod release;
mod report;
mod search;
mod state;
mod subdirectory;
mod summary;
mod tracked;
mod tree;
mod watch;

pub use gaps::{Cause, Gap, Gaps};
pub(crate) use git::fuzz;
pub use group::{Group, Omitted};
pub use interrupt::Interrupt;
pub(crate) use plan::complete;
pub use plan::{names, repository_outside};
pub use release::{NotReleased, release};
pub use report::{Change, How, Report};
pub use watch::Watch;
