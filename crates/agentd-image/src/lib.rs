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
//! The way of the data: a *source* (or a *pull*, which makes one) describes an image; *import* stages each of its layers through
//! [`unpack`], checking every digest; the *store* makes what was staged an image in one step. Nothing here mounts or runs anything.
//!
//! Images are hostile input, read by a process that may be root. [`unpack`] says what keeps an archive inside its directory.

mod digest;
mod error;
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
