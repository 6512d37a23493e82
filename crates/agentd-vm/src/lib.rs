//! Builds and opens the *assets* of a microVM: an ELF kernel, the kernel modules, and a root file system. This crate starts no
//! machine.
//!
//! [`Builder`] creates a directory of assets from a kernel package and a tree of files, without privileges or loop devices.
//! [`Assets`] is such a directory, opened and checked. The program for the guest's process 1 is not part of the assets. The
//! backend that starts a machine appends its own program to the modules ([`cpio`]), so that host and guest are of the same build.
//!
//! Data flow: `kernel` detects the format of the kernel (`bzimage`, `package` or ELF), and `payload` decompresses it. `modules`
//! sorts the modules by their dependencies, `root` runs `mke2fs` to create the file system, and `manifest` records the result.
//! `install` installs Firecracker's programs.

mod assets;
mod build;
mod bzimage;
pub mod cpio;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod install;
mod kernel;
mod manifest;
mod modules;
mod package;
mod payload;
mod program;
mod root;
pub mod sha256;

pub use assets::Assets;
pub use build::Builder;
pub use error::AssetError;
pub use install::{FIRECRACKER_VERSION, install};
pub use kernel::BootKernel;
pub use manifest::{Kernel, Manifest};
pub use modules::Module;
pub use package::{file_of_package, first_dependency};
pub use program::loadable;
pub use root::make as make_root;
