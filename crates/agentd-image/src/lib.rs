//! A content-addressed store of OCI images whose layers are unpacked so that overlayfs can stack them.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use agentd_image::Store;
//! let store = Store::open("/var/lib/agentd/images".as_ref())?;
//! let image = store.import("alpine.tar".as_ref(), &"alpine:3".parse()?)?;
//! println!("{} has {} layers: {:?}", image.reference, image.layers.len(), image.layers);
//! # Ok(())
//! # }
//! ```
//!
//! Data flow: a *source*, or a *pull* that downloads one, describes an image. *Import* stages each layer through [`unpack`] and
//! verifies every digest. The *store* then commits the staged layers as an image in one step. Nothing here mounts or executes
//! anything.
//!
//! Images are hostile input, and the process that reads them may run as root. [`unpack`] explains how an archive is confined to
//! its directory.

mod digest;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod image;
mod import;
mod manifest;
mod pull;
mod source;
mod store;
pub mod unpack;

pub use digest::{Digest, NotADigest};
pub use error::{Damage, ImageError};
pub use image::{Image, ImageConfig};
pub use oci_client::{ParseError, Reference};
pub use pull::Progress;
pub use store::{Collected, Hold, Store};
