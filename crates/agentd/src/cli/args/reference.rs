//! Replaces the image reference in a program that was built without images: no text is a valid reference.

use crate::isolation::left_out;
use std::{convert::Infallible, fmt, str::FromStr};

/// The reference of an image; no value of this type exists.
#[derive(Debug, Clone)]
pub(crate) struct Reference(pub Infallible);

impl FromStr for Reference {
    type Err = String;

    fn from_str(_: &str) -> Result<Self, String> {
        Err(left_out("images"))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}
