//! Replaces `image` in a program that was built without images. No name is a valid image reference.

use super::{args::Reference, failure::Failure};
use std::{convert::Infallible, path::PathBuf};

/// The parts of an image that `agentd run` uses.
pub(crate) struct Image {
    pub reference: Reference,
    pub layers: Vec<PathBuf>,
    pub config: Config,
}

/// The image's settings for starting a command.
pub(crate) struct Config {
    pub env: Vec<(String, String)>,
    pub working_dir: PathBuf,
}

/// Never called, because no reference exists.
pub(crate) fn find(reference: &Reference) -> Result<Image, Failure> {
    match reference.0 {}
}

/// Never called, because no reference exists.
pub(crate) fn hold(reference: &Reference) -> Result<(Image, Infallible), Failure> {
    match reference.0 {}
}
