//! What a microVM is started from: a kernel that is an ELF file, the modules it needs, and a root file system. It starts nothing.
//!
//! [`Builder`] makes a directory of these *assets* from a kernel package and a tree of files, without privileges and without loop
//! devices; [`Assets`] is such a directory, opened and checked. The program that runs as the guest's process 1 is not among them: whoever
//! starts a machine puts its own beside the modules ([`cpio`]), so that host and guest are always of one build.
//!
//! The way of the data: `kernel` tells what a file is (`bzimage`, `package`, or an ELF file already) and `payload` decompresses;
//! `modules` orders what must be loaded; `root` has `mke2fs` make the file system; `manifest` says what came out.

mod assets;
mod build;
mod bzimage;
pub mod cpio;
mod error;
mod install;
mod kernel;
mod manifest;
mod modules;
mod package;
mod payload;
mod program;
mod root;

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
