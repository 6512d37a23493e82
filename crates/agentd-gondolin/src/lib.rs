//! A pinned installation of Gondolin: its package, the Node that runs it, and the assets its machines are started from. It starts none.
//!
//! [`set_up`] makes an installation from *downloads*: a directory that it first fills from the registries of npm, PyPI and Debian, or that
//! was filled elsewhere. From there on nothing needs a network. Each part lies in a directory named after all that it is made of, and
//! appears there whole or not at all; `installation.json` names the parts that belong together, and is written last.
//!
//! The way of the data: `downloads` fetches; `programs` unpacks Node and Zig and installs the package; `daemons` builds what Gondolin runs
//! in a guest; `root` is the guest's file tree; `guest` puts kernel, initramfs and root together; `installation` is the result.

mod daemons;
mod downloads;
mod error;
mod guest;
mod installation;
mod part;
mod programs;
mod root;
mod setup;
mod tool;

pub use error::SetupError;
pub use installation::{GONDOLIN_VERSION, Installation};
pub use setup::{Request, set_up};
